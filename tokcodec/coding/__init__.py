"""Tokens to bytes and back: bit packing, and entropy coding with a prior."""
