"""Making checkpoints from images."""
