"""Making checkpoints: data, start, codebook, loop, export. Nothing outside imports this."""
