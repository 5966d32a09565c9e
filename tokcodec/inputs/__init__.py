"""What is read: images and token files, from sources of every kind."""
