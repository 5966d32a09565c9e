"""Encodes and decodes folders of files with a ``Codec``."""
