"""Do the borders of patches show? python tests/benchmarks/borders.py IMAGE...

Prints for each bundled checkpoint the mean squared difference of neighbouring pixels across borders
of patches over that inside of patches, of the decoded images and of the originals, in pixels of
the size that the model sees. Blocks show where the first is well above the second.
"""

import sys

import numpy as np
import torch
from reading import CENTRE
from torch import Tensor
from torch.nn.functional import avg_pool2d

from tokcodec import Codec
from tokcodec.checkpoint import bundled
from tokcodec.config import PreprocessingConfig
from tokcodec.image import read_tiles


def ratio(pixels: Tensor, patch_size: int) -> float:
    """Of pixels [B, 3, s, s]."""
    steps = torch.cat([pixels.diff(), pixels.mT.diff()]).square().mean(dim=(0, 1, 2))
    across = torch.arange(1, len(steps) + 1) % patch_size == 0
    return float(steps[across].mean() / steps[~across].mean())


def main(paths: list[str]) -> None:
    for header in bundled():
        codec, config = Codec.load(header, "cpu"), header.config
        read = [read_tiles(path, PreprocessingConfig(), CENTRE).pixels for path in paths]
        originals = torch.from_numpy(np.concatenate(read)).permute(0, 3, 1, 2) / 255
        decoded = codec.decode(codec.encode(originals))
        scale, side = config.preprocessing.pixel_scale, config.encoder.patch_size
        before, after = (ratio(avg_pool2d(x, scale), side) for x in (originals, decoded))
        print(f"{header.name}: {after:.2f}, originals {before:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
