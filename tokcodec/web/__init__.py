"""A page that encodes and decodes images in the browser."""
