"""Making checkpoints. ``tokcodec.train(...)`` is ``tokcodec.train.api.train``."""

from tokcodec.calls import make_callable

make_callable(__name__)
