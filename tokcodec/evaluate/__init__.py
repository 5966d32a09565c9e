"""Measures images, tokens and files, and compares checkpoints with other codecs."""
