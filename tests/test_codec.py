import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import GOLDEN, PHOTOS, read_fitted, results
from PIL import Image

from tokcodec import Codec, TokenFile, checkpoint
from tokcodec.config.geometry import FITS as ALL_FITS
from tokcodec.errors import CheckpointError, DeviceError, ImageError, TokenFileError
from tokcodec.model.runtime import default_batch_size
from tokcodec.train.presets import PRESETS

FITS = tuple(fit for fit in ALL_FITS if fit != "native")  # of which test_native.py is


@pytest.fixture(scope="module")
def codec(tiny):
    return Codec.load(str(tiny), device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def images():
    generator = np.random.default_rng(0)
    sizes = [(32, 32), (100, 40), (7, 90), (64, 64), (33, 31), (1, 1), (50, 70)]
    return [Image.fromarray(generator.integers(0, 256, (h, w, 3), np.uint8)) for w, h in sizes]


@pytest.mark.parametrize("fit", FITS)
def test_neighbours_order_and_workers_change_no_token(codec, images, fit):
    def together(images, workers=1):
        return results(codec.compress_stream(enumerate(images), fit=fit, workers=workers))

    alone = [codec.compress(image, fit=fit) for image in images]
    assert together(images) == alone
    assert together(images[::-1]) == alone[::-1]
    assert together(images, workers=4) == alone
    # Every position of the batch, beside every kind of neighbour.
    for shift in range(codec.batch_size):
        turned = images[shift:] + images[:shift]
        assert together(turned) == alone[shift:] + alone[:shift]


def test_workers_leave_torchs_threads_as_they_were(codec, images):
    def threads_of_a_new_one():
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.get_num_threads).result()

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = []
        for _ in codec.compress_stream(enumerate(images), workers=2):
            found.append(torch.get_num_threads())
        assert found == [2] * len(images)
        assert (torch.get_num_threads(), threads_of_a_new_one()) == (2, 2)
    finally:
        torch.set_num_threads(before)


def test_workers_read_one_batch_together(codec, images):
    together = threading.Barrier(4, timeout=60)

    def read(image):
        together.wait()
        return image, read_fitted(image, codec.config.preprocessing, "stretch")

    found = list(codec.encode_stream(images[:4], read, workers=4))
    assert len(found) == codec.batch_size == 4


def test_squares_of_several_tiled_images_fill_a_batch(codec, images, monkeypatch):
    rows = []
    encode = codec.model.encode
    monkeypatch.setattr(codec.model, "encode", lambda x: rows.append(len(x)) or encode(x))
    two = [images[3].crop((0, 0, 64, 32))] * 8
    assert len(results(codec.compress_stream(enumerate(two), fit="tile"))) == 8
    assert rows == [4, 4, 4, 4]


@pytest.mark.parametrize("workers", [1, 3])
def test_large_images_are_decoded_a_batch_at_a_time(codec, images, monkeypatch, workers):
    files = [codec.compress(image, fit="tile") for image in (images[1], images[0], images[6])]
    rows, decode = [], codec.runtime.decode
    monkeypatch.setattr(codec.runtime, "decode", lambda x: rows.append(len(x)) or decode(x))
    together = results(codec.decompress_stream(enumerate(files), workers=workers))
    assert rows == [4] * 9 + [1]  # parts that overlap by half: 7x3 and 1 and 5x3
    for file, image in zip(files, together, strict=True):
        assert image == codec.decompress(file)


def test_tiles_fade_into_each_other(codec):
    """Over the middle of a seam the image is that of a part which has no seam there."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, codec.config.quantizer.codebook_size, (1, 2, 4, 4))
    file = TokenFile.of(codec.header, tokens.reshape(2, 4, 4), 64, 32, "tile")
    image = np.asarray(codec.decompress(file)).astype(int)
    left, right = (codec.decode(tokens[:, place])[0].astype(int) for place in (0, 1))
    between = codec.decode(np.concatenate(tokens[0], axis=1)[None, :, 2:6])[0].astype(int)
    assert np.array_equal(image[:, :16], left[:, :16])  # only one part reaches here
    assert np.array_equal(image[:, 48:], right[:, 16:])
    edges = image[:, 31:33] - between[:, 15:17]
    assert abs(edges).max() < abs(np.stack([left[:, 31], right[:, 0]], 1) - between[:, 15:17]).max()
    column = (left[:, 24] * 7.5 + between[:, 8] * 8.5) / 16
    assert abs(image[:, 24] - column).max() <= 0.5


def test_a_small_file_decodes_to_a_sensible_size(codec):
    tokens = np.zeros((1, 4, 4), np.int64)
    for fit, size, expected in (
        ("stretch", (4000, 3000), (1024, 768)),
        ("pad", (3000, 4000), (768, 1024)),
        ("crop", (4000, 3000), (1024, 1024)),
        ("stretch", (1024, 700), (1024, 700)),
    ):
        file = TokenFile.of(codec.header, tokens, *size, fit)
        assert codec.decompress(file).size == expected
        original = (min(size),) * 2 if fit == "crop" else size
        assert codec.decompress(file, size="original").size == original


def test_the_limit_of_pixels_holds_for_any_size(codec, images, monkeypatch):
    tiled, stretched = (codec.compress(images[1], fit=fit) for fit in ("tile", "stretch"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)  # of 128x64 and 100x40
    for file, size in ((tiled, (8, 8)), (tiled, None), (stretched, None)):
        with pytest.raises(ImageError, match="bomb limit"):
            codec.decompress(file, size=size)
    assert codec.decompress(stretched, size=(8, 8)).size == (8, 8)


def test_what_the_caller_set_outlives_workers(codec, images):
    torch.set_float32_matmul_precision("medium")
    try:
        list(codec.compress_stream(enumerate(images * 4), workers=4))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("name", [header.name for header in checkpoint.bundled()])
def test_threads_of_torch_change_no_bit_of_z(name):
    # So that it does not matter whether a batch is alone, with all threads, or one of many.
    codec = Codec.load(name, device="cpu")
    tiles = [read_fitted(photo, codec.config.preprocessing, "crop").pixels for photo in PHOTOS]
    pixels = codec.runtime.preprocess(torch.from_numpy(np.concatenate(tiles * 5)), 1)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(codec.model.z(pixels))
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])
    finally:
        torch.set_num_threads(before)


def test_token_files_say_what_they_are(codec, images):
    for image in images:
        for fit in FITS:
            token_file = codec.compress(image, fit=fit)
            width, height = image.size
            tiles = -(-width // 32) * -(-height // 32) if fit == "tile" else 1
            assert (token_file.width, token_file.height) == image.size
            if fit == "aspect":
                assert 1 <= len(token_file.tokens) <= 16
            else:
                assert token_file.grid.shape == (tiles, 4, 4)
            assert (token_file.fit, token_file.bits) == (fit, 6)
            assert token_file.model_id.hex() == codec.header.model_id[:4]
            assert TokenFile.from_bytes(token_file.to_bytes()) == token_file
            back = codec.decompress(token_file)
            assert back.size == ((min(width, height),) * 2 if fit == "crop" else image.size)
            assert codec.decompress(token_file, size=(5, 9)).size == (5, 9)
            assert max(codec.decompress(token_file, size=9).size) == 9


def test_images_are_those_of_the_tensors(codec):
    image = Image.open(PHOTOS[0]).resize((32, 32))
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255
    tokens = codec.encode(pixels)
    token_file = codec.compress(image)
    assert tokens.dtype == torch.int64
    assert tokens.flatten().tolist() == token_file.tokens.tolist()
    decoded = (codec.decode(tokens)[0].permute(1, 2, 0) * 255).round()
    assert np.array_equal(decoded, np.asarray(codec.decompress(token_file)))


def test_the_default_fit_is_the_checkpoints(codec, images):
    assert codec.compress(images[0]).fit == "stretch"
    latent = Codec.load(str(GOLDEN / "latent.safetensors"), device="cpu")
    assert latent.compress(images[1]).fit == "crop"


def test_any_batch_of_tensors(codec):
    for count in (0, 1, 4, 9):
        tokens = codec.encode(torch.rand(count, 3, 32, 32))
        assert tokens.shape == (count, 4, 4)
        assert codec.decode(tokens).shape == (count, 3, 32, 32)


def test_wrong_tensors(codec):
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\], not \[3, 32, 32\]"):
        codec.encode(torch.zeros(3, 32, 32))
    with pytest.raises(ValueError, match=r"\[B, 4, 4\] or another grid .*, not \[1, 15\]"):
        codec.decode(torch.zeros(1, 15, dtype=torch.int64))
    with pytest.raises(ValueError, match="from 0 to 59"):
        codec.decode(torch.full((1, 4, 4), 60))


def test_bad_images_stand_in_their_place(codec, images, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    found = results(codec.compress_stream(enumerate([bad, *images, bad])))
    assert isinstance(found[0], ImageError)
    assert isinstance(found[-1], ImageError)
    assert found[1:-1] == [codec.compress(image) for image in images]
    both = results(codec.compress_stream(enumerate([bad, bad])))
    assert all(isinstance(error, ImageError) for error in both)
    with pytest.raises(ImageError, match=r"bad\.png"):
        codec.compress(bad)


def altered(token_file, **changes):
    names = ("bits", "model_id", "width", "height", "fit", "tiles")
    kept = {name: getattr(token_file, name) for name in names}
    return TokenFile.packed(**{"tokens": token_file.grid} | kept | changes)


def test_token_files_that_do_not_fit(codec, images):
    good = codec.compress(images[0])
    own = codec.header.model_id[:6]
    for changes, message in [
        (
            {"model_id": b"\0\1"},
            f"model 0001, patch is {own}; no bundled or cached one fits",
        ),
        ({"tokens": good.grid[:, :3]}, "not 3x4 tokens"),
        ({"bits": 7}, "tokens of 7 bits"),
        ({"fit": "tile", "width": 33}, r"\(1, 1\) tiles of tokens"),
        ({"tokens": np.full((1, 4, 4), 60)}, "token 60 of a codebook of 60"),
    ]:
        with pytest.raises(TokenFileError, match=message):
            codec.decompress(altered(good, **changes))
    with pytest.raises(ImageError, match="65535x65535 pixels are more"):
        codec.decompress(altered(good, width=65535, height=65535), size="original")


def test_the_bundled_model_that_fits_is_named(codec, images):
    other = Codec.load("tokcodec", device="cpu", batch_size=1).compress(images[0])
    with pytest.raises(TokenFileError, match="tokcodec decodes it"):
        codec.decompress(other)


def test_the_default_batch():
    original = PRESETS["tokcodec"]
    assert default_batch_size(original, "cpu") == 16
    large = original.replace(
        encoder=original.encoder.replace(width=512, patch_size=16),
        decoder=original.decoder.replace(width=512, patch_size=32),
        preprocessing=original.preprocessing.replace(image_size=512),
    )
    assert default_batch_size(large, "cpu") == 8
    assert default_batch_size(large, "cuda") == 64


def test_too_little_memory_is_an_error(tiny, images, monkeypatch):
    codec = Codec.load(str(tiny), device="cpu", batch_size=4)

    def encode(_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(codec.model, "encode", encode)
    with pytest.raises(DeviceError, match="memory for batches of 4"):
        codec.compress(images[0])


def test_loading_what_is_not_there():
    with pytest.raises(CheckpointError, match="no such file, folder or bundled checkpoint"):
        Codec.load("tokcodec-17", device="cpu")
    with pytest.raises(DeviceError, match="device abacus: torch knows no such device"):
        Codec.load(device="abacus")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_that_is_not_there():
    with pytest.raises(DeviceError, match="torch finds no CUDA device"):
        Codec.load(device="cuda")
