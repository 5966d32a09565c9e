"""Published checkpoints of other programs, as tokcodec's."""
