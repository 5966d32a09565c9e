"""Makes prior.npz, once: a neural prior of random tables, tokens, and their payload.

python tests/golden/make_prior.py

The payload comes from reference_prior.py, not from tokcodec.
"""

from pathlib import Path

import numpy as np
from reference_prior import encode


def main() -> None:
    rng = np.random.RandomState(0)  # its stream is frozen for good
    size = 100
    tables = {
        "group": rng.randint(0, 64, size).astype(np.uint8),
        "vectors": rng.randint(-127, 128, (size + 1, 32)).astype(np.int8),
        "layer": rng.randint(-20, 21, (128, 64)).astype(np.int8),
        "layer_bias": rng.randint(-5000, 5001, 64).astype(np.int16),
        "group_scores": rng.randint(-10, 11, (64, 64)).astype(np.int8),
        "group_bias": rng.randint(-3000, 3001, 64).astype(np.int16),
        "token_scores": rng.randint(-10, 11, (size, 64)).astype(np.int8),
        "token_bias": rng.randint(-3000, 3001, size).astype(np.int16),
        "powers": np.arange(60000, 0, -60).astype(np.uint16),
    }
    tokens = rng.randint(0, size, (2, 4, 5))
    payload = np.frombuffer(encode(tables, tokens), np.uint8)
    np.savez_compressed(
        Path(__file__).parent / "prior.npz", tokens=tokens, payload=payload, **tables
    )


if __name__ == "__main__":
    main()
