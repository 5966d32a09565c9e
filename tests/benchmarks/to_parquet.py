"""Images a second from JPEG files to Parquet: python tests/benchmarks/to_parquet.py

For weights of the size of TiTok-S-128 (random) and for each bundled checkpoint: ``tokenize``, the
encoder alone on tiles that are ready, reading and resizing alone, and what the two together
allow when they share the cores; the plain loop of ``plain_loop.py``; the way that ``tokenize`` was
before, without writing; and the best matrix product. All in one run and in turns.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from plain_loop import plain_loop
from published import S128, encoder_operations
from reading import former
from speed import matrix_product

import tokcodec
from tokcodec import Codec, checkpoint
from tokcodec.config.geometry import place
from tokcodec.image import read_tiles
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.parallel import map_ahead

PHOTOS = Path(__file__).parents[1] / "data"
WORKERS = 2
ROUNDS = 2


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    names = sys.argv[1:] or ["titok-s128", *(header.name for header in checkpoint.bundled())]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {WORKERS} readers")
    for name in names:
        count = 160 if name == "titok-s128" else 2000
        weights = str(seeded(folder)) if name == "titok-s128" else name
        measure(name, Codec.load(weights, "cpu"), photos(folder / str(count), count))


def seeded(folder: Path) -> Path:
    """A checkpoint of TiTok-S-128's size with random weights."""
    torch.manual_seed(0)
    model = Tokenizer(S128)
    for buffer in model.buffers():  # the codebook: without distinct vectors every z is a tie
        buffer.normal_()
    tensors = {k: v.numpy() for k, v in model.state_dict().items()}
    return checkpoint.write(folder / "titok-s128.safetensors", S128, tensors, {}).path


def photos(folder: Path, count: int) -> Path:
    """JPEGs of 500x375, as most of ImageNet's are."""
    folder.mkdir(exist_ok=True)
    photo = Image.open(PHOTOS / "astronaut.png").convert("RGB")
    for number in range(count):
        part = photo.crop((number % 12, number % 137, number % 12 + 500, number % 137 + 375))
        part.save(folder / f"{number:05}.jpg", quality=90)
    return folder


def measure(name: str, codec: Codec, folder: Path) -> None:
    files = sorted(folder.glob("*.jpg"))
    count = len(files)
    config = codec.config.preprocessing
    side = config.read_size
    ready = np.random.default_rng(0).integers(0, 256, (codec.batch_size, side, side, 3), np.uint8)
    crop = partial(place, "crop", tile=(config.image_size, config.image_size), resize=config.resize)
    batches = max(WORKERS, count // 4 // len(ready))

    def tokenize() -> None:
        output = Path(tempfile.mkdtemp()) / "out.parquet"
        done = tokcodec.tokenize(
            folder,
            output,
            weights=codec.header,
            fit="crop",
            device="cpu",
            batch_size=codec.batch_size,
            workers=WORKERS,
        )
        assert (done.rows, done.failed) == (count, 0)

    def on_workers(work: Callable[[Any], object], items: Sequence[Any]) -> None:
        for _ in map_ahead(work, items, WORKERS, 64, lambda: torch.set_num_threads(1)):
            pass

    def read() -> None:
        on_workers(lambda path: read_tiles(path, config, crop), files)

    def encoder() -> None:
        on_workers(lambda _: codec.encode_tiles(ready), range(batches))

    def plain() -> None:
        plain_loop(codec.model, folder, folder / "plain.npz")

    def before() -> None:
        # Readers beside a model that has all of torch's threads; tiles of 256 pixels as floats,
        # four batches together, averaged by the model.
        opened = map_ahead(lambda p: former(p, config.reduced_jpeg), files, WORKERS, 64)
        while group := list(islice(opened, 4 * codec.batch_size)):
            pixels = torch.from_numpy(np.concatenate(group)).permute(0, 3, 1, 2).float() / 255
            for part in pixels.split(codec.batch_size):
                with torch.inference_mode():
                    codec.model.encode(codec.model.shrink(part))

    ways = {
        "tokenize": (tokenize, count),
        "encoder alone": (encoder, batches * len(ready)),
        "reading alone": (read, count),
        "as before": (before, count),
        "plain loop": (plain, count),
    }
    rates = dict.fromkeys(ways, 0.0)
    peak = 0.0
    for _ in range(ROUNDS):  # in turns, because the speed of a machine drifts
        peak = max(peak, matrix_product())
        for kind, (function, images) in ways.items():
            threads = torch.get_num_threads()
            rates[kind] = max(rates[kind], images / seconds(function))
            torch.set_num_threads(threads)
    own, encoding, reading = (rates[n] for n in ("tokenize", "encoder alone", "reading alone"))
    print(f"{name}: " + ", ".join(f"{kind} {rate:.1f}/s" for kind, rate in rates.items()))
    print(
        f"{name}: tokenize {own / min(encoding, reading):.0%} of the slower of encoder and reading "
        f"alone, {own * (1 / encoding + 1 / reading):.0%} of both in turn, "
        f"{own / rates['as before']:.2f} times as before, "
        f"{own / rates['plain loop']:.2f} times the plain loop"
    )
    if name == "titok-s128":
        operations = encoder_operations(codec.config)
        part = own * operations / peak
        print(f"{name}: {part:.0%} of the best matrix product ({peak / 1e9:.0f} GFLOP/s)")


def seconds(function: Callable[[], None]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
