"""The loop that research scripts have: python tests/benchmarks/plain_loop.py WEIGHTS FOLDER OUT.npz

Opens an image, encodes it, keeps its tokens in memory, goes on to the next, and writes all of
them at the end. What ``tokcodec tokenize`` is measured against.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tokcodec.checkpoint import find
from tokcodec.config.geometry import place
from tokcodec.model.loading import load
from tokcodec.model.tokenizer import Tokenizer


def main() -> None:
    weights, folder, output = sys.argv[1:]
    plain_loop(load(find(weights), torch.device("cpu")), Path(folder), Path(output))


def plain_loop(model: Tokenizer, folder: Path, output: Path) -> int:
    """Does it, and gives the number of images."""
    side = model.config.preprocessing.image_size
    keys, tokens = [], []
    for path in sorted(folder.rglob("*.jpg")):
        image = Image.open(path).convert("RGB")
        placement = place("crop", image.size, (side, side))
        left, top = (-offset for offset in placement.offset)
        image = image.resize(placement.resized, Image.Resampling.BICUBIC)
        image = image.crop((left, top, left + side, top + side))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            tokens.append(model.encode(model.shrink(pixels))[0].numpy())
        keys.append(path.name)
    np.savez(output, keys=np.array(keys), tokens=np.stack(tokens).astype(np.uint16))
    return len(keys)


if __name__ == "__main__":
    main()
