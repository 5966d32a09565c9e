"""Pictures a second from JPEG files to Parquet: python tests/benchmarks/to_parquet.py

For weights of the size of TiTok-S-128 (random) and for each bundled checkpoint: ``tokenize``, the
encoder alone on tensors that are ready, reading and resizing alone, the plain loop of
``plain_loop.py``, and the best matrix product, all in one run and in turns.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from plain_loop import plain_loop
from published import S128, encoder_operations
from speed import matrix_product

from tokcodec import Codec, checkpoint
from tokcodec.dataset.plan import make_plan
from tokcodec.dataset.run import run
from tokcodec.dataset.step import ShardStep
from tokcodec.dataset.task import Settings, Task
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.parallel import map_ahead
from tokcodec.picture import read_squares

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
    side = codec.config.preprocessing.image_size
    ready = torch.rand(4 * codec.batch_size, 3, side, side)

    def tokenize() -> None:
        settings = Settings("crop", batch_size=codec.batch_size)
        plan = make_plan([str(folder)], [], 10_000, 1, None, None)
        task = Task(codec.header, settings, plan)
        output = Path(tempfile.mkdtemp()) / "out.parquet"
        assert run(task, ShardStep(task, codec, WORKERS), output) == (count, 0)

    def read() -> None:
        config = codec.config.preprocessing
        for _ in map_ahead(lambda f: read_squares(f, config, "crop"), files, WORKERS, 64):
            pass

    def encoder() -> None:
        for _ in range(count // len(ready)):
            codec.encode(ready)

    def plain() -> None:
        plain_loop(codec.model, folder, folder / "plain.npz")

    encoder_count = count // len(ready) * len(ready)
    rates = {"tokenize": 0.0, "encoder alone": 0.0, "plain loop": 0.0, "reading alone": 0.0}
    peak = 0.0
    for _ in range(ROUNDS):  # in turns, because the speed of a machine drifts
        peak = max(peak, matrix_product())
        for kind, function, pictures in (
            ("tokenize", tokenize, count),
            ("encoder alone", encoder, encoder_count),
            ("plain loop", plain, count),
            ("reading alone", read, count),
        ):
            rates[kind] = max(rates[kind], pictures / seconds(function))
    share = rates["tokenize"] / rates["encoder alone"]
    ratio = rates["tokenize"] / rates["plain loop"]
    print(f"{name}: " + ", ".join(f"{kind} {rate:.1f}/s" for kind, rate in rates.items()))
    print(f"{name}: tokenize {share:.0%} of the encoder alone, {ratio:.2f} times the plain loop")
    if name == "titok-s128":
        operations = encoder_operations(codec.config)
        part = rates["tokenize"] * operations / peak
        print(f"{name}: {part:.0%} of the best matrix product ({peak / 1e9:.0f} GFLOP/s)")


def seconds(function: Callable[[], None]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
