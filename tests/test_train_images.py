"""Training images: from sources to two arrays."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training import PATCH, make_crops

from tokcodec.errors import DatasetError, TrainingError
from tokcodec.train.data import STORED, load_images


def load(sources, folder, held_out=()):
    folder.mkdir(exist_ok=True)
    return load_images(
        list(map(str, sources)),
        frozenset(held_out),
        PATCH.preprocessing,
        folder,
        2,
        lambda _: None,
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """100 images: half in folders of a folder, half in a tar file there."""
    folder = tmp_path_factory.mktemp("photos")
    with tarfile.open(folder / "some.tar", "w") as tar:
        for number, crop in enumerate(make_crops(100, 50, 40)):
            buffer = io.BytesIO()
            crop.save(buffer, "PNG")
            name = f"{number:03}.png"
            if number % 2:
                member = tarfile.TarInfo(name)
                member.size = len(buffer.getvalue())
                tar.addfile(member, io.BytesIO(buffer.getvalue()))
            else:
                path = folder / str(number % 5) / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(buffer.getvalue())
    (folder / "0" / "bad.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not an image, and not meant to be one")
    return folder


def test_images_are_stored_as_squares_and_split(photos, tmp_path):
    images = load([photos], tmp_path / "drawn")
    assert len(images.train) + len(images.held_out) == 100
    assert len(images.held_out) > 0
    for array in (images.train, images.held_out):
        assert array.shape[1:] == (3, STORED, STORED)
        assert array.dtype == np.uint8
        assert isinstance(array, np.memmap)
    (skipped,) = images.skipped
    assert skipped.startswith("0/bad.jpg: ")
    # A list decides alone; a second call maps what is there.
    keys = {"some.tar/001.png", "0/000.png", "0/010.png"}
    for _ in range(2):
        chosen = load([photos], tmp_path / "listed", keys)
        assert (len(chosen.train), len(chosen.held_out)) == (97, 3)
    assert chosen.fingerprint == images.fingerprint
    with pytest.raises(TrainingError):
        load([photos], tmp_path / "listed")


def test_few_images_and_unreadable_ones(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(4):
        Image.new("RGB", (40, 40), (60 * number, 0, 0)).save(photos / f"{number}.png")
    (photos / "link.png").symlink_to("nowhere.png")
    (photos / "two\nlines.png").write_bytes(b"no image")
    Path(os.fsdecode(os.fsencode(photos) + b"/caf\xe9.png")).write_bytes(b"no image")
    found = load([photos], tmp_path / "a")
    assert [line.split(": ")[0] for line in found.skipped] == [
        r"caf\xe9.png",
        "link.png",
        r"two\nlines.png",
    ]
    # The first image is held out, just as if a list named it.
    listed = load([photos], tmp_path / "b", {"0.png"})
    for images in (found, listed):
        assert images.train[:, 0, 0, 0].tolist() == [60, 120, 180]
        assert images.held_out[:, 0, 0, 0].tolist() == [0]
    for name, held_out in (("c", {"9.png"}), ("d", {f"{number}.png" for number in range(4)})):
        with pytest.raises(TrainingError):
            load([photos], tmp_path / name, held_out)
        assert not list((tmp_path / name).glob("*"))


def test_no_images(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere"):
        with pytest.raises(DatasetError, match=name):
            load([tmp_path / name], tmp_path)


@pytest.mark.parametrize("text", [b"", b"one line", b"\xff\n\xff"])
def test_a_damaged_fingerprint_is_named(tmp_path, text):
    (tmp_path / "fingerprint").write_bytes(text)
    with pytest.raises(TrainingError, match="fingerprint") as error:
        load(["a"], tmp_path)
    assert error.value.name == str(tmp_path / "fingerprint")
