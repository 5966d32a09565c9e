"""Trains checkpoints on images."""
