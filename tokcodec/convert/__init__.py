"""Published checkpoints of other programs, turned into tokcodec's own."""
