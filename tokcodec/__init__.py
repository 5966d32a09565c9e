"""tokcodec: an image-to-token codec."""

__version__ = "0.1.0"
