"""Speed beside this machine's own limit: python tests/benchmarks/speed.py [NAME...]

For each checkpoint: the share of the best float32 matrix product that the encoder's blocks
reach, at each batch size, and images a second of encode and decode, on tensors and from JPEG
files to token files and from token files to PNG files. The matrix product is timed again beside
every figure, because the speed of a machine drifts.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from tokcodec import Codec, TokenFile
from tokcodec.checkpoint import bundled
from tokcodec.config.vit import LatentEncoderConfig, VitConfig
from tokcodec.image import save

BATCH_SIZES = (1, 4, 8, 16, 32, 64, 128)
PHOTOS = Path(__file__).parents[1] / "data"
FILES = 512


def main() -> None:
    names = sys.argv[1:] or [header.name for header in bundled()]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32")
    with torch.inference_mode():
        for name in names:
            blocks(name)
            tensors(name)
            files(name)


def blocks(name: str) -> None:
    codec = Codec.load(name, device="cpu")
    part = codec.config.encoder
    tokens = encoder_tokens(part, codec.config.preprocessing.model_size)
    shares = []
    for batch_size in BATCH_SIZES:
        x = torch.randn(batch_size, tokens, part.width)
        peak = matrix_product()
        rate = (
            block_operations(part, tokens)
            * batch_size
            / seconds(lambda x=x: codec.model.encoder.run(x, slice(None)))
        )
        peak = max(peak, matrix_product())
        shares.append(rate / peak)
        print(
            f"{name}: encoder blocks, batch {batch_size}: {rate / 1e9:.0f} GFLOP/s, "
            f"{rate / peak:.0%} of the best matrix product ({peak / 1e9:.0f} GFLOP/s)"
        )
    print(f"{name}: encoder blocks, best share: {max(shares):.0%}")


def tensors(name: str) -> None:
    for batch_size in (16, 64):
        codec = Codec.load(name, device="cpu", batch_size=batch_size)
        side = codec.config.preprocessing.image_size
        pixels = torch.rand(batch_size, 3, side, side)
        tokens = codec.encode(pixels)
        peak = matrix_product()
        encode = batch_size / seconds(lambda: codec.encode(pixels))  # noqa: B023
        decode = batch_size / seconds(lambda: codec.decode(tokens))  # noqa: B023
        print(
            f"{name}: tensors, batch {batch_size}: encode {encode:.0f} images/s, "
            f"decode {decode:.0f} images/s, beside {peak / 1e9:.0f} GFLOP/s"
        )


def files(name: str) -> None:
    codec = Codec.load(name, device="cpu")
    folder = Path(tempfile.mkdtemp())
    photo = Image.open(PHOTOS / "astronaut.png").convert("RGB")
    sources = [folder / f"{number}.jpg" for number in range(FILES)]
    for number, path in enumerate(sources):
        photo.crop((number // 2, 0, number // 2 + 256, 256)).save(path, quality=90)
    peak = matrix_product()
    begun = time.perf_counter()
    for path, result in codec.compress_stream(((path, path) for path in sources), workers=2):
        assert isinstance(result, TokenFile)
        result.save(path.with_suffix(".tok"))
    encode = FILES / (time.perf_counter() - begun)
    begun = time.perf_counter()
    items = ((path, TokenFile.load(path.with_suffix(".tok"))) for path in sources)
    for path, image in codec.decompress_stream(items, workers=2):
        assert isinstance(image, Image.Image)
        save(image, path.with_suffix(".png"))
    decode = FILES / (time.perf_counter() - begun)
    shutil.rmtree(folder)
    print(
        f"{name}: 256x256 files: encode {encode:.0f} images/s, decode {decode:.0f} images/s, "
        f"beside {peak / 1e9:.0f} GFLOP/s"
    )


def matrix_product() -> float:
    """Operations a second of the best of three square sizes."""
    best = 0.0
    for size in (1024, 1536, 2048):
        a, b = torch.randn(size, size), torch.randn(size, size)
        best = max(best, 2 * size**3 / seconds(lambda: a @ b))  # noqa: B023
    return best


def encoder_tokens(part: VitConfig, side: int) -> int:
    """Tokens in the blocks of an encoder of tiles of ``side`` pixels."""
    latents = part.num_latents if isinstance(part, LatentEncoderConfig) else 0
    return part.class_token + part.grid(side) ** 2 + latents


def block_operations(part: VitConfig, tokens: int) -> int:
    """Multiplications and additions in the blocks, matrix products only, an image."""
    hidden = round(part.width * part.mlp_ratio)
    linear = 2 * part.width * (4 * part.width + 2 * hidden)
    attention = 4 * tokens * part.width
    return part.layers * tokens * (linear + attention)


def seconds(function: Callable[[], object], rounds: int = 7) -> float:
    """The shortest of several rounds, each long enough to time."""
    function()
    begun = time.perf_counter()
    function()
    repeats = max(1, round(0.05 / max(time.perf_counter() - begun, 1e-6)))
    best = float("inf")
    for _ in range(rounds):
        begun = time.perf_counter()
        for _ in range(repeats):
            function()
        best = min(best, (time.perf_counter() - begun) / repeats)
    return best


if __name__ == "__main__":
    main()
