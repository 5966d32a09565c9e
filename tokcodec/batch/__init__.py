"""Folders of files through a ``Codec``: what is done, what is skipped, and where results go."""
