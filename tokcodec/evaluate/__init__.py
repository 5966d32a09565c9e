"""How good the images are, and what other codecs give at the same bytes."""
