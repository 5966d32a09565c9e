"""Token datasets in the formats that trainers read, each read as they read it."""

import inspect
import itertools
import json
import linecache
import struct
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import tokcodec
from tokcodec import load_tokens
from tokcodec.cli.export import export as command
from tokcodec.errors import ArgumentError, DatasetError, OutputError

pq = pytest.importorskip("pyarrow.parquet")

from tokenized import go, image, rows  # noqa: E402

from tokcodec.dataset.formats import FORMATS, format_of  # noqa: E402

pytestmark = pytest.mark.parquet

CLASSES = {"cat": 0, "dog": 1}


@pytest.fixture(scope="module")
def kept(dataset):
    return [row for row in rows(dataset) if row["status"] == "ok"]


@pytest.fixture(scope="module")
def expected(kept):
    return np.array([row["tokens"] for row in kept])


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    """A dataset of four images, each with a grid of its own, without labels, and its grids."""
    folder = tmp_path_factory.mktemp("ragged")
    for number, size in enumerate([(64, 32), (32, 64), (96, 96), (50, 20)]):
        (folder / f"{number}.png").write_bytes(image(number, size))
    assert go([folder / "*.png"], folder / "d", fit="aspect", tokens=12) == (4, 0)
    return folder / "d"


def lines(path):
    return [json.loads(line) for line in path.open()]


def test_arrays_have_an_index(start, run, dataset, kept, expected, tmp_path):
    start("export", dataset, "-o", tmp_path / "t.npy")
    for name in ("t.safetensors", "t.npz"):
        run("export", dataset, "-o", tmp_path / name)
    from safetensors.numpy import load_file

    for tokens in (
        np.load(tmp_path / "t.npy"),
        np.load(tmp_path / "t.npz")["tokens"],
        load_file(tmp_path / "t.safetensors")["tokens"],
        load_tokens(dataset),
    ):
        assert (tokens.dtype, tokens.shape) == (np.uint8, (147, 16))  # K is 60
        assert np.array_equal(tokens, expected)
    names = kept[0].keys() - {"tokens", "status", "error"}
    for name in ("t.npy", "t.npz", "t.safetensors"):
        assert lines(tmp_path / f"{name}.index.jsonl") == [
            {"class_id": CLASSES[row["label"]], "length": 16, **{k: row[k] for k in names}}
            for row in kept
        ]
        meta = json.loads((tmp_path / f"{name}.meta.json").read_text())
        assert (meta["rows"], meta["row_length"], meta["grid"]) == (147, 16, [4, 4])
        assert (meta["classes"], meta["vocab_size"]) == (CLASSES, 60)
    classes = load_file(tmp_path / "t.safetensors")["class_id"]
    assert classes.tolist() == [CLASSES[row["label"]] for row in kept]


def test_what_cannot_be_exported(run, dataset, ragged, tmp_path):
    run("export", dataset, "-o", tmp_path / "t.npy")
    assert b"already exists" in run("export", dataset, "-o", tmp_path / "t.npy", status=1).stderr
    run("export", dataset, "-o", tmp_path / "t.npy", "-f")
    before = sorted(tmp_path.iterdir())
    for error, message, source, output, options in (
        (DatasetError, r"name it \.npy", dataset, "t.csv", {}),
        (DatasetError, "rows differ in length", ragged, "r.npy", {}),
        (DatasetError, "rows differ in length", ragged, "r", {"format": "llamagen"}),
        (DatasetError, "without a label", without_labels(dataset, tmp_path.parent), "x",
            {"format": "llamagen"}),
        (ArgumentError, "not one of the formats", dataset, "t.npy", {"format": "hdf5"}),
        (ArgumentError, "has no shards", dataset, "t", {"format": "llamagen",
            "rows_per_shard": 5}),
        (ArgumentError, "no column caption", dataset, "t.jsonl", {"columns": ["caption"]}),
        (ArgumentError, "do not fit", dataset, "t.bin", {"vocabulary_offset": 2**32 - 59}),
        (ArgumentError, "do not fit", dataset, "t.bin", {"dtype": "uint16",
            "vocabulary_offset": 2**16}),
        (ArgumentError, "is the id of an image token", dataset, "t.bin", {"end_token": 59}),
        (ArgumentError, "from 0 to", dataset, "t.bin", {"vocabulary_offset": -1}),
        (ArgumentError, "begins or ends", dataset, "t.bin", {"end_token": 60, "row_token": 60}),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            tokcodec.export(source, tmp_path / output, **options)
        assert sorted(tmp_path.iterdir()) == before


def without_labels(dataset, folder):
    table = pq.read_table(dataset / "shard-00001.parquet")
    place = table.column_names.index("label")
    table = table.set_column(place, "label", [[None] * len(table)])
    table = table.cast(pq.read_schema(dataset / "shard-00001.parquet"))
    table = table.replace_schema_metadata({**table.schema.metadata, b"tokcodec.shards": b"1"})
    pq.write_table(table, folder / "unlabelled.parquet")
    return folder / "unlabelled.parquet"


class PretokenizedJsonl:
    """As TiTok's data/webdataset_reader.py reads its lines."""

    def __init__(self, path):
        self.path = str(path)
        with open(path) as file:
            self.count = sum(1 for _ in file)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        import torch

        data = json.loads(linecache.getline(self.path, index + 1).strip())
        return torch.tensor(data["class_id"]), torch.tensor(data["tokens"])


def test_jsonl_as_titok_reads_it(dataset, kept, expected, tmp_path):
    assert tokcodec.export(dataset, tmp_path / "t.jsonl") == 147
    found = PretokenizedJsonl(tmp_path / "t.jsonl")
    assert len(found) == 147
    for index in (0, 77, 146):
        class_id, tokens = found[index]
        assert class_id == CLASSES[kept[index]["label"]]
        assert tokens.tolist() == expected[index].tolist()
    datasets = pytest.importorskip("datasets")
    table = datasets.load_dataset(
        "json", data_files=str(tmp_path / "t.jsonl"), split="train", cache_dir=str(tmp_path / "c")
    )
    assert table["key"] == [row["key"] for row in kept]
    unlabelled = without_labels(dataset, tmp_path)
    tokcodec.export(unlabelled, tmp_path / "u.jsonl", columns=[])
    (first, *_) = lines(tmp_path / "u.jsonl")
    assert list(first) == ["class_id", "tokens", "key", "view"]
    assert first["class_id"] is None


def grids_of(dataset):
    return [np.array(row["tokens"]).reshape(row["rows"], -1) for row in rows(dataset)]


def test_rows_of_many_lengths(ragged, tmp_path):
    grids = grids_of(ragged)
    assert len({grid.shape for grid in grids}) > 2
    from safetensors.numpy import load_file

    for name, load in (("r.npz", np.load), ("r.safetensors", load_file)):
        tokcodec.export(ragged, tmp_path / name)
        found = load(tmp_path / name)
        offsets, shapes = found["offsets"], zip(found["rows"], found["columns"], strict=True)
        for place, (shape, grid) in enumerate(zip(shapes, grids, strict=True)):
            own = found["tokens"][offsets[place] : offsets[place + 1]].reshape(shape)
            assert np.array_equal(own, grid)
        assert found["class_id"].tolist() == [-1] * 4
    tokcodec.export(ragged, tmp_path / "r.jsonl")
    for line, grid in zip(lines(tmp_path / "r.jsonl"), grids, strict=True):
        assert (line["rows"], line["columns"]) == grid.shape
        assert line["tokens"] == grid.ravel().tolist()


def test_bin_as_nanogpt_reads_it(dataset, ragged, expected, tmp_path):
    tokcodec.export(dataset, tmp_path / "train.bin")
    data = np.memmap(tmp_path / "train.bin", dtype=np.uint16, mode="r")
    assert np.array_equal(data.reshape(-1, 16), expected)
    # As part of the vocabulary of a language model, with special tokens around rows and images.
    special = {"vocabulary_offset": 100_000, "begin_token": 7, "end_token": 8, "row_token": 9}
    for source, grids in ((dataset, expected.reshape(-1, 4, 4)), (ragged, grids_of(ragged))):
        tokcodec.export(source, tmp_path / "llm.bin", force=True, **special)
        meta = json.loads((tmp_path / "llm.bin.meta.json").read_text())
        data = np.memmap(tmp_path / "llm.bin", dtype=meta["dtype"], mode="r")
        stream = []
        for grid in grids:
            stream += [
                7,
                *(x for row in grid.tolist() for x in [*(t + 100_000 for t in row), 9]),
                8,
            ]
        assert data.tolist() == stream
        assert meta["vocab_size"] == 100_000 + meta["vocabulary"]["codebook_size"]


class IndexedDataset:
    """Reads what Megatron's IndexedDataset reads, by the layout that it documents."""

    TYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}  # noqa: RUF012

    def __init__(self, prefix):
        index = prefix.with_suffix(".idx").read_bytes()
        assert index[:9] == b"MMIDIDX\x00\x00"
        version, code = struct.unpack_from("<QB", index, 9)
        assert version == 1
        self.dtype = self.TYPES[code]
        count, documents = struct.unpack_from("<QQ", index, 18)
        self.lengths = np.frombuffer(index, np.int32, count, 34)
        self.pointers = np.frombuffer(index, np.int64, count, 34 + 4 * count)
        self.documents = np.frombuffer(index, np.int64, documents, 34 + 12 * count)
        assert len(index) == 34 + 12 * count + 8 * documents
        self.data = prefix.with_suffix(".bin").read_bytes()

    def __getitem__(self, i):
        return np.frombuffer(self.data, self.dtype, self.lengths[i], self.pointers[i])


def test_megatron(dataset, ragged, expected, tmp_path):
    grids = grids_of(ragged)
    for source, wanted, offset in (
        (dataset, expected, 0),
        (dataset, expected + 70_000, 70_000),
        (ragged, [grid.ravel() for grid in grids], 0),
    ):
        options = {"vocabulary_offset": offset, "end_token": 1 << 16, "force": True}
        tokcodec.export(source, tmp_path / "m", format="megatron", **options)
        found = IndexedDataset(tmp_path / "m")
        assert found.documents.tolist() == list(range(len(wanted) + 1))
        assert len(found.lengths) == len(wanted)
        for place, tokens in enumerate(wanted):
            assert found[place].tolist() == [*tokens.tolist(), 1 << 16]
        try:
            from megatron.core.datasets.indexed_dataset import IndexedDataset as Theirs
        except ImportError:
            continue
        theirs = Theirs(str(tmp_path / "m"))
        assert all(np.array_equal(theirs[i], found[i]) for i in range(len(wanted)))


class CodesAndLabels:
    """As LlamaGen's dataset/imagenet.py reads its folders."""

    def __init__(self, codes, labels, count):
        self.codes, self.labels = codes, labels
        self.names = [f"{number}.npy" for number in range(count)]  # theirs is ImageNet's

    def __getitem__(self, index):
        import torch

        features = np.load(self.codes / self.names[index])
        if "flip" in str(self.codes):
            features = features[:, torch.randint(0, features.shape[1], size=(1,)).item()]
        labels = np.load(self.labels / self.names[index])
        return torch.from_numpy(features), torch.from_numpy(labels)


def test_llamagens_folders(dataset, tmp_path):
    for number in range(3):
        path = tmp_path / "in" / f"{number // 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(number, (48, 48)))
    go([tmp_path / "in"], tmp_path / "d", views="ten-crop")
    views = np.array([row["tokens"] for row in rows(tmp_path / "d")]).reshape(3, 10, 16)
    prefix = tmp_path / "flip_ten_crop" / "set"
    # What a larger export has left is no image of this one.
    tokcodec.export(dataset, prefix, format="llamagen")
    assert tokcodec.export(tmp_path / "d", prefix, format="llamagen", force=True) == 30
    folders = [prefix.with_name(f"set_{name}") for name in ("codes", "labels")]
    assert [len(list(folder.iterdir())) for folder in folders] == [3, 3]
    found = CodesAndLabels(*folders, 3)
    for number in range(3):
        drawn = set()
        for _ in range(20):
            tokens, label = found[number]
            assert (tokens.dtype.itemsize, tokens.shape) == (8, (1, 16))
            assert label.tolist() == [number // 2]
            drawn.add(tuple(tokens[0].tolist()))
        assert len(drawn) > 1
        assert drawn <= set(map(tuple, views[number].tolist()))
        assert np.array_equal(np.load(folders[0] / f"{number}.npy"), views[number][None])


@pytest.fixture
def captioned(tmp_path):
    """A dataset with captions and further columns of every kind."""
    import tarfile

    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for number in range(5):
            (tmp_path / "x").write_bytes(image(number))
            tar.add(tmp_path / "x", f"a/{number}.png")
            for suffix, text in (("cls", f"{number * 7}"), ("txt", f"a tree, ärger {number}")):
                (tmp_path / "x").write_text(text)
                tar.add(tmp_path / "x", f"a/{number}.{suffix}")
    go([tmp_path / "in.tar"], tmp_path / "captioned")
    return tmp_path / "captioned"


def test_webdataset(captioned, tmp_path):
    assert tokcodec.export(captioned, tmp_path / "w.tar", rows_per_shard=2) == 5
    shards = [tmp_path / f"w-{number:05}.tar" for number in range(3)]
    assert sorted(tmp_path.glob("w-*")) == shards
    expected = rows(captioned)
    datasets = pytest.importorskip("datasets")
    table = datasets.load_dataset(
        "webdataset",
        data_files=[str(path) for path in shards],
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    found = list(table)
    assert [sample["npy"] for sample in found] == [row["tokens"] for row in expected]
    assert [sample["cls"] for sample in found] == [0, 7, 14, 21, 28]
    assert [sample["txt"] for sample in found] == [row["txt"] for row in expected]
    assert [sample["json"]["key"] for sample in found] == [row["key"] for row in expected]
    assert len({sample["__key__"] for sample in found}) == 5


def read_mds(folder):
    """Reads MDS version 2, of encodings int, str and ndarray:TYPE."""
    for shard in json.loads((folder / "index.json").read_text())["shards"]:
        data = (folder / shard["raw_data"]["basename"]).read_bytes()
        assert len(data) == shard["raw_data"]["bytes"]
        (count,) = np.frombuffer(data, np.uint32, 1)
        assert count == shard["samples"]
        ends = np.frombuffer(data, np.uint32, count + 1, 4)
        for start, end in itertools.pairwise(ends):
            sample, place = {}, int(start)
            sizes = []
            for size in shard["column_sizes"]:
                if size is None:
                    (size,) = np.frombuffer(data, np.uint32, 1, place)
                    place += 4
                sizes.append(int(size))
            names = zip(shard["column_names"], shard["column_encodings"], sizes, strict=True)
            for name, encoding, size in names:
                cell, place = data[place : place + size], place + size
                if encoding == "int":
                    sample[name] = int(np.frombuffer(cell, np.int64)[0])
                elif encoding == "str":
                    sample[name] = cell.decode()
                else:
                    assert cell[0] == 1 << 2  # one dimension, below 256
                    sample[name] = np.frombuffer(cell, encoding.split(":")[1], cell[1], 2)
            assert place == end
            yield sample


def test_mds(captioned, dataset, expected, tmp_path):
    tokcodec.export(dataset, tmp_path / "mds", format="mds", rows_per_shard=50)
    assert np.array_equal([s["tokens"] for s in read_mds(tmp_path / "mds")], expected)
    options = {"format": "mds", "rows_per_shard": 3, "force": True}
    tokcodec.export(captioned, tmp_path / "mds", **options)
    assert len(list((tmp_path / "mds").glob("*.mds"))) == 2
    for sample, row in zip(read_mds(tmp_path / "mds"), rows(captioned), strict=True):
        assert sample["tokens"].tolist() == row["tokens"]
        assert sample["class_id"] == int(row["label"])
        assert all(sample[name] == row[name] for name in ("key", "txt", "width"))
    streaming = pytest.importorskip("streaming", reason="mosaicml-streaming is not installed")
    theirs = streaming.LocalDataset(str(tmp_path / "mds"))
    assert [sample["tokens"].tolist() for sample in theirs] == [
        row["tokens"] for row in rows(captioned)
    ]


@pytest.mark.parametrize("name", ["t.npy", "t.npz", "t.jsonl", "t.bin", "t.tar"])
def test_shards_are_the_rows_in_order(dataset, expected, tmp_path, name):
    tokcodec.export(dataset, tmp_path / name, rows_per_shard=10)  # 15 of them
    (tmp_path / "keep.npy").touch()
    assert tokcodec.export(dataset, tmp_path / name, rows_per_shard=40, force=True) == 147
    stem, suffix = name.split(".")
    shards = sorted(tmp_path.glob(f"{stem}-*.{suffix}"))
    assert [path.name for path in shards] == [f"t-{number:05}.{suffix}" for number in range(4)]
    meta = json.loads((tmp_path / f"{name}.meta.json").read_text())
    assert [(file["name"], file["rows"], file["bytes"]) for file in meta["files"]] == [
        (path.name, count, path.stat().st_size)
        for path, count in zip(shards, (40, 40, 40, 27), strict=True)
    ]
    if suffix == "npy":
        assert np.array_equal(np.concatenate([np.load(path) for path in shards]), expected)
    if FORMATS[format_of(name).name].indexed:
        keys = [line["key"] for s in shards for line in lines(tmp_path / f"{s.name}.index.jsonl")]
        assert keys == [row["key"] for row in rows(dataset) if row["status"] == "ok"]
    assert (tmp_path / "keep.npy").exists()
    with pytest.raises(OutputError, match="already exists"):
        tokcodec.export(dataset, tmp_path / name, rows_per_shard=40)


def test_exports_go_to_standard_output(start, dataset, expected):
    done = start("export", dataset, "-o", "-", "--format", "jsonl")
    assert [json.loads(line)["tokens"] for line in done.stdout.splitlines()] == expected.tolist()
    assert b"147 rows" in done.stderr
    for more in (["megatron"], ["mds"], ["npy", "--rows-per-shard", "9"]):
        done = start("export", dataset, "-o", "-", "--format", *more, status=2)
        assert b"takes one file" in done.stderr


def test_every_format_is_in_the_guide_and_a_choice_of_the_command():
    guide = (Path(tokcodec.__file__).parent / "dataset" / "README.md").read_text()
    for each in FORMATS.values():
        held = "yes" if each.ragged else "no"
        (row,) = [line for line in guide.splitlines() if line.startswith(f"| `{each.name}` |")]
        assert f"| {each.reader} |" in row
        assert f"| {held} |" in row
        assert row.endswith("| index |") == each.indexed
    option = inspect.signature(command).parameters["format_name"].annotation
    choices = get_args(get_args(get_args(option)[0])[0])
    assert choices == tuple(FORMATS)
