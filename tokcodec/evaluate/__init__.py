"""How good the pictures are, and what other codecs give at the same bytes."""
