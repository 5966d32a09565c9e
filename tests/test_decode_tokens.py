"""Arrays of tokens to images: exported ones, and those that a generative model samples."""

import io
import json
import tarfile
import zipfile
from itertools import product

import numpy as np
import pytest
from conftest import GOLDEN
from PIL import Image

import tokcodec
from tokcodec import Codec, RunOptions, decode_files, load_tokens
from tokcodec.errors import ArgumentError, DatasetError, Hint, ImageError

pytest.importorskip("pyarrow")

from tokenized import TINY, go, image

pytestmark = pytest.mark.parquet

SPECIAL = {"vocabulary_offset": 1000, "begin_token": 1, "end_token": 2, "row_token": 3}


@pytest.fixture(scope="module")
def codec():
    return Codec.load(TINY, "cpu")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Datasets whose rows have one shape, and whose rows differ."""
    folder = tmp_path_factory.mktemp("datasets")
    for number, size in enumerate([(64, 32), (32, 64), (96, 96)]):
        (folder / f"{number}.png").write_bytes(image(number, size))
    go([folder / "*.png"], folder / "same", views="hflip")
    go([folder / "*.png"], folder / "differ", fit="aspect", tokens=12)
    go([folder / "*.png"], folder / "crops", views="random:2")
    go([folder / "*.png"], folder / "ten", views="ten-crop")
    return folder


def images_in(folder):
    return {path.name: np.asarray(Image.open(path)) for path in folder.rglob("*.png")}


def decoded(source, output, **options):
    return list(decode_files(source, output, **{"weights": TINY, **options}))


@pytest.mark.parametrize("options", [{}, SPECIAL], ids=["plain", "special"])
@pytest.mark.parametrize(
    ("suffix", "name"),
    [
        ("npy", "same"),
        ("npy", "ten"),
        ("jsonl", "crops"),
        *product(("npz", "safetensors", "jsonl", "bin", "tar"), ("same", "differ")),
    ],
)
def test_exports_come_back_as_their_dataset_does(datasets, tmp_path, suffix, name, options):
    decoded(datasets / name, tmp_path / "expected")
    expected = images_in(tmp_path / "expected")
    assert len(expected) == {"same": 6, "differ": 3, "crops": 6, "ten": 30}[name]
    file = tmp_path / f"t.{suffix}"
    tokcodec.export(datasets / name, file, rows_per_shard=2, **options)
    for shard in sorted(tmp_path.glob(f"t-*.{suffix}")):
        assert {outcome.status for outcome in decoded(shard, tmp_path / "found")} == {"ok"}
    found = images_in(tmp_path / "found")
    assert found.keys() == expected.keys()
    for key, pixels in expected.items():
        # A few images are decoded by NumPy, many by torch.
        assert np.abs(found[key].astype(int) - pixels).max() <= (1 if name == "ten" else 0)
    again = decoded(tmp_path / f"t-00000.{suffix}", tmp_path / "found")
    assert {outcome.status for outcome in again} == {"skipped"}


def test_samples(run, codec, tmp_path):
    tokens = np.random.default_rng(0).integers(0, 60, (5, 4, 4))
    expected = codec.decode(tokens)
    from safetensors.numpy import save_file

    np.save(tmp_path / "grids.npy", tokens.astype(np.int32))
    np.save(tmp_path / "rows.npy", tokens.reshape(5, 16).astype(np.uint8))
    np.savez_compressed(tmp_path / "a.npz", tokens=tokens)
    save_file({"tokens": tokens.reshape(5, 16)}, tmp_path / "a.safetensors")
    lines = [json.dumps({"tokens": row}) + "\n" for row in tokens.reshape(5, 16).tolist()]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    for name in ("grids.npy", "rows.npy", "a.npz", "a.safetensors", "a.jsonl"):
        run("decode", tmp_path / name, "--weights", TINY, "-o", tmp_path / name.replace(".", "-"))
        found = images_in(tmp_path / name.replace(".", "-"))
        assert sorted(found) == [f"{number:05}.png" for number in range(5)]
        for number, pixels in enumerate(expected):
            assert np.array_equal(found[f"{number:05}.png"], pixels)
    wide = tokens.reshape(5, 2, 8)
    np.save(tmp_path / "wide.npy", wide)
    decoded(tmp_path / "wide.npy", tmp_path / "wide", rows=[3])
    (found,) = images_in(tmp_path / "wide").values()
    assert np.array_equal(found, codec.decode(wide[3:4])[0])


def test_tokens_in_one_dimension(tmp_path):
    """Of a model whose tokens have no grid; some of its kind decode any first ones."""
    latent = str(GOLDEN / "latent.safetensors")
    codec = Codec.load(latent, "cpu")
    size, config = codec.config.num_tokens, codec.config
    assert not config.has_grid
    tokens = np.random.default_rng(0).integers(0, config.quantizer.codebook_size, (3, size))
    np.save(tmp_path / "s.npy", tokens)
    decoded(tmp_path / "s.npy", tmp_path / "out", weights=latent)
    found = images_in(tmp_path / "out")
    for number, pixels in enumerate(codec.decode(tokens)):
        assert np.array_equal(found[f"{number:05}.png"], pixels)
    (tmp_path / "in.png").write_bytes(image(1))
    go([tmp_path / "in.png"], tmp_path / "d", weights=latent)
    with pytest.raises(ArgumentError, match="no rows"):
        tokcodec.export(tmp_path / "d", tmp_path / "t.bin", row_token=10**6)
    tokcodec.export(tmp_path / "d", tmp_path / "t.bin", begin_token=10**6)
    decoded(tmp_path / "t.bin", tmp_path / "one", weights=latent)
    decoded(tmp_path / "d", tmp_path / "two", weights=latent)
    one, two = images_in(tmp_path / "one"), images_in(tmp_path / "two")
    assert np.array_equal(one["in.png.png"], two["in.png.png"])


def test_the_model_is_that_of_the_metadata(datasets, run, tmp_path):
    for suffix in ("npz", "safetensors"):  # which hold it themselves
        tokcodec.export(datasets / "same", tmp_path / f"t.{suffix}")
        (tmp_path / f"t.{suffix}.meta.json").unlink()
    for name in ("t.npz", "t.safetensors"):
        with pytest.raises(DatasetError, match="neither bundled nor cached") as refused:
            decode_files(tmp_path / name, tmp_path / "out")
        assert refused.value.hint is Hint.NAME_WEIGHTS
    failed = list(decode_files(tmp_path / "t.npz", tmp_path / "out", weights="tokcodec"))
    assert {outcome.status for outcome in failed} == {"failed"}
    assert "its tokens are of model" in str(failed[0].error)
    np.save(tmp_path / "s.npy", np.zeros((1, 64), np.int64))
    with pytest.raises(DatasetError, match="does not say which model"):
        decode_files(tmp_path / "s.npy", tmp_path / "out")
    # A bundled model is found.
    (tmp_path / "in.png").write_bytes(image(1, (64, 64)))
    go([tmp_path / "in.png"], tmp_path / "bundled", weights="tokcodec", tokens=16)
    tokcodec.export(tmp_path / "bundled", tmp_path / "b.jsonl")
    run("decode", tmp_path / "b.jsonl", "-o", tmp_path / "out")
    assert [a.shape for a in images_in(tmp_path / "out").values()] == [(64, 64, 3)]


def test_bad_rows_are_named_and_the_others_are_decoded(run, tmp_path):
    tokens = np.zeros((4, 16), np.int64)
    tokens[1, 3], tokens[2, 5] = 60, -1
    np.save(tmp_path / "s.npy", tokens)
    arguments = (tmp_path / "s.npy", "--weights", TINY, "-o", tmp_path / "out")
    said = run("decode", *arguments, status=3).stderr.decode()
    assert "s.npy: row 1: token 60 of a codebook of 60" in said
    assert "s.npy: row 2: token -1 of a codebook of 60" in said
    assert sorted(images_in(tmp_path / "out")) == ["00000.png", "00003.png"]
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"tokens": [1, 2, 3]}\n{"tokens": [0, 0, 0, 0]}\n')
    said = run("decode", odd, *arguments[1:], status=3).stderr.decode()
    assert "odd.jsonl: row 0: 3 tokens; " in said


def test_an_array_without_rows_is_refused(tmp_path):
    np.save(tmp_path / "none.npy", np.zeros((0, 4), np.uint16))
    with pytest.raises(DatasetError, match=r"none\.npy"):
        decode_files(tmp_path / "none.npy", tmp_path / "sheet.png", weights=str(TINY), grid=3)
    assert not (tmp_path / "sheet.png").exists()


def test_sizes_that_are_no_integers_are_their_rows_error(tmp_path):
    sizes = [(5.5, 6), (5, 6), ("5", 6), (5, [6]), (1e300, 6)]
    lines = [json.dumps({"tokens": [0] * 16, "width": w, "height": h}) for w, h in sizes]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "a.jsonl.meta.json").write_text('{"fit": "stretch"}')
    found = {outcome.job.name: outcome for outcome in decoded(tmp_path / "a.jsonl", tmp_path / "o")}
    assert [found[f"{n:05}"].status for n in range(5)] == ["failed", "ok", *["failed"] * 3]
    assert found["00001"].image_size == (5, 6)


def claim(shape):
    """A .npy that claims a shape, and holds nothing."""
    file = io.BytesIO()
    fields = {"descr": "<u2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue()


def test_rows_without_tokens_are_none(tmp_path):
    """A file of 128 bytes would have any number of them."""
    (tmp_path / "a.npy").write_bytes(claim((10**12, 0)))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("tokens.npy", claim((10**12, 4, 0)))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(DatasetError, match=r"holds \[1000000000000, .*\]; tokens are"):
            decoded(tmp_path / name, tmp_path / "out")


def test_arrays_that_expand_without_bound_are_not_read(tmp_path):
    for name in ("meta", "tokens"):
        with (
            zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as file,
            file.open(f"{name}.npy", "w") as member,
        ):
            member.write(claim((5, 10 << 20)))
            for _ in range(100):
                member.write(bytes(1 << 20))
        with pytest.raises(DatasetError, match="its arrays expand to 104,857,"):
            decoded(tmp_path / "a.npz", tmp_path / "out")


@pytest.mark.parametrize(
    "ends", [[4, 8], [0, 4], [0, 9], [0, 6, 4, 8], [-8, 0], [[0, 8]], [0.0, 8]]
)
def test_every_token_belongs_to_one_row(tmp_path, ends):
    np.savez(tmp_path / "a.npz", tokens=np.zeros(8, np.uint8), offsets=np.array(ends))
    with pytest.raises(DatasetError, match="tokens or offsets are damaged"):
        decoded(tmp_path / "a.npz", tmp_path / "out")


def test_an_index_of_other_rows_is_noticed(datasets, run, tmp_path):
    """It would name, and size, rows that are not its own."""
    tokcodec.export(datasets / "same", tmp_path / "t.npy")
    index = tmp_path / "t.npy.index.jsonl"
    lines = index.read_text().splitlines(keepends=True)
    for other in (lines[:4], [*lines, lines[0]]):
        index.write_text("".join(other))
        out = tmp_path / f"{len(other)}"
        done = run("decode", tmp_path / "t.npy", "--weights", TINY, "-o", out, status=3)
        assert b"t.npy: cannot read its tokens: its .index.jsonl is of another" in done.stderr
        assert len(images_in(out)) == min(len(other), 6)


def test_keys_of_any_text_stay_in_the_folder(run, tmp_path):
    keys = ["../up", "/tmp/root", "a\0b", "\ud800", "a\nb", 5, ["x"], "", "d/e"]
    lines = [json.dumps({"tokens": [0] * 16, "key": key, "view": 0}) + "\n" for key in keys]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    arguments = ("--weights", TINY, "-o", tmp_path / "in" / "out")
    done = run("decode", tmp_path / "a.jsonl", *arguments, status=3)
    assert done.stderr.count(b"its key leaves the folder") == 3
    found = {str(p.relative_to(tmp_path / "in" / "out")) for p in tmp_path.rglob("*.png")}
    assert found == {
        *("\\ud800.png", "a\nb.png", "d/e.png"),
        *("00005.png", "00006.png", "00007.png"),
    }


def tar_of(array):
    """A tar in WebDataset layout with these bytes as the array of its only row."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        member = tarfile.TarInfo("0.npy")
        member.size = len(array)
        tar.addfile(member, io.BytesIO(array))
    return file.getvalue()


def array_of(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npy", b"no array"),
        ("a.npy", np.lib.format.magic(1, 0) + b"\xff\xff" + b"(" * 70000),
        ("a.npz", b"PK\x03\x04"),
        ("a.safetensors", b"\xff" * 20),
        ("a.jsonl", b"[1, 2]\n"),
        ("a.jsonl", b'{"tokens": [1, [2]]}\n'),
        ("a.jsonl", b'{"tokens": [0.5]}\n'),
        ("a.jsonl", b"\xff\xfe\n"),
        ("a.bin", b"\0" * 32),
        ("a.tar", tar_of(b"no array")),
        ("a.tar", tar_of(array_of([0.5]))),
        ("a.tar", tar_of(array_of(np.zeros((1 << 20, 0), np.uint8)))),
        ("a.tar", tar_of(array_of(np.zeros(16, np.uint8)))[:600]),
    ],
)
def test_damaged_files_end_in_one_line(run, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    arguments = ("--weights", TINY, "-o", tmp_path / "out")
    status = 3 if name in ("a.jsonl", "a.tar") else 1  # which are read row by row
    done = run("decode", tmp_path / name, *arguments, status=status)
    assert f"{name}: cannot read its tokens: " in done.stderr.decode()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"vocabulary": {"offset": "x"}},
        {"vocabulary": [1]},
        {"model_id": "zz"},
        {"model_id": 5},
        {"fit": "zoom"},
        {"grid": [3, 5]},
        {"dtype": "O"},
        {"row_length": 7},
        {"row_length": None},
    ],
    ids=str,
)
def test_hostile_metadata_is_refused(datasets, run, tmp_path, change):
    tokcodec.export(datasets / "same", tmp_path / "t.bin")
    meta = json.loads((tmp_path / "t.bin.meta.json").read_text())
    (tmp_path / "t.bin.meta.json").write_text(json.dumps({**meta, **change}))
    (tmp_path / "t.bin.index.jsonl").write_text("{}\n")
    status = 3 if "grid" in change else 1
    done = run(
        "decode", tmp_path / "t.bin", "--weights", TINY, "-o", tmp_path / "out", status=status
    )
    assert "t.bin: " in done.stderr.decode()


def test_contact_sheet(run, datasets, codec, tmp_path):
    tokens = np.random.default_rng(1).integers(0, 60, (7, 4, 4))
    np.save(tmp_path / "s.npy", tokens)
    sheet = tmp_path / "grid.png"
    run("decode", tmp_path / "s.npy", "--weights", TINY, "--grid", "3", "-o", sheet)
    found = np.asarray(Image.open(sheet))
    assert found.shape == (3 * 34 - 2, 3 * 34 - 2, 3)
    for number, pixels in enumerate(codec.decode(tokens)):
        row, column = divmod(number, 3)
        assert np.array_equal(found[34 * row :, 34 * column :][:32, :32], pixels)
    assert (
        b"already exists"
        in run(
            "decode", tmp_path / "s.npy", "--weights", TINY, "--grid", "3", "-o", sheet, status=1
        ).stderr
    )
    # Of any source.
    decoded(datasets / "differ", sheet, grid=8, options=RunOptions(overwrite=True))
    assert Image.open(sheet).size == (96 * 3 + 4, 96)
    list(tokcodec.encode_files(str(datasets / "*.png"), tmp_path / "tokens", weights=TINY))
    decoded(tmp_path / "tokens", tmp_path / "files.jpg", grid=2)
    assert Image.open(tmp_path / "files.jpg").size == (96 * 2 + 2, 96 * 2 + 2)
    with pytest.raises(ArgumentError, match="give an image file"):
        decoded(tmp_path / "s.npy", tmp_path / "folder", grid=2)


def test_a_contact_sheet_is_not_larger_than_what_pillow_opens(monkeypatch, tmp_path):
    np.save(tmp_path / "s.npy", np.zeros((40, 16), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10 * 32 * 32)
    with pytest.raises(ImageError, match="decompression bomb"):
        decoded(tmp_path / "s.npy", tmp_path / "sheet.png", grid=8)
    assert not (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize("runtime", ["torch", "numpy"])
def test_arrays_of_any_integers(datasets, runtime):
    codec = Codec.load(TINY, "cpu", runtime=runtime)
    tokens = load_tokens(datasets / "same")
    assert tokens.shape == (6, 16)
    expected = codec.decode(tokens.astype(np.int64).reshape(6, 4, 4))
    for kind in (np.uint8, np.int8, np.uint16, np.int32, np.uint64):
        assert np.array_equal(codec.decode(tokens.astype(kind)), expected)
    for grid in load_tokens(datasets / "differ"):
        if len(grid) not in (4, 9):
            with pytest.raises(ValueError, match=r"or another grid \[B, rows, columns\]"):
                codec.decode(grid[None])
