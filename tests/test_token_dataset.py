"""Token datasets in memory: ``load_tokens``, ``TokenDataset``, its views and buckets."""

import multiprocessing
import pickle
import re
from collections import Counter
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import tokcodec
from tokcodec import TokenDataset, load_tokens
from tokcodec.dataset.buckets import BucketSampler
from tokcodec.dataset.reader import open_dataset
from tokcodec.errors import ArgumentError, DatasetError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from tokenized import go, image, rows  # noqa: E402

pytestmark = pytest.mark.parquet
PACKAGE = Path(tokcodec.__file__).parent


def changed(source, path, take, columns):
    """A dataset of these rows of a file, with these columns instead of its own or beside them."""
    table = pq.read_table(source).take([*take])
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        if place < 0:
            table = table.append_column(name, values)
        else:
            field = table.schema.field(place)
            table = table.set_column(place, field, pa.array(values, field.type))
    metadata = {**table.schema.metadata, b"tokcodec.shards": b"1"}
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=4)
    return path


@pytest.fixture(scope="module")
def captioned(dataset, tmp_path_factory):
    """Six rows with columns of every type; the third failed, the fourth has nulls."""
    path = tmp_path_factory.mktemp("captioned") / "c.parquet"
    numbers = range(6)
    columns = {
        "key": [f"{n}.png" for n in numbers],
        "label": [None if n == 3 else "ab"[n % 2] for n in numbers],
        "width": [None if n == 3 else 10 * n for n in numbers],
        "tokens": [None if n == 2 else [n] * 16 for n in numbers],
        "status": ["failed" if n == 2 else "ok" for n in numbers],
        "error": ["broken" if n == 2 else None for n in numbers],
        "txt": pa.array([None if n == 3 else f"photo {n} ü" for n in numbers]),
        "score": pa.array([None if n == 3 else n + 0.5 for n in numbers], pa.float32()),
        "square": pa.array(
            [None if n == 3 else [n, 0, 32, 32] for n in numbers], pa.list_(pa.int32(), 4)
        ),
        "tags": pa.array([["x"] * n for n in numbers]),
    }
    return changed(dataset / "shard-00001.parquet", path, numbers, columns)


@pytest.fixture(scope="module")
def flipped(tmp_path_factory):
    """40 images in two views each; one failed. Shards of 30 rows begin in any view."""
    folder = tmp_path_factory.mktemp("flipped")
    (folder / "in").mkdir()
    for number in range(40):
        (folder / "in" / f"{number:02}.png").write_bytes(image(number))
    (folder / "in" / "07.png").write_bytes(b"junk")
    go([folder / "in"], folder / "out", views="hflip", rows_per_shard=30)
    return folder / "out"


@pytest.fixture(scope="module")
def grids(tmp_path_factory):
    """26 images of three shapes, the last of which has one, and a failed row."""
    folder = tmp_path_factory.mktemp("grids")
    for number in range(26):
        size = [(60, 40), (40, 60)][number % 3 == 0] if number < 25 else (100, 20)
        (folder / f"{number:02}.png").write_bytes(image(number, size))
    (folder / "26.png").write_bytes(b"junk")
    go([folder / "*.png"], folder / "out", fit="aspect", tokens=12)
    return folder / "out"


def test_token_dataset(dataset):
    kept = [row for row in rows(dataset) if row["status"] == "ok"]
    found = TokenDataset(dataset)
    assert (len(found), found.class_to_idx) == (147, {"cat": 0, "dog": 1})
    for index in (0, 1, 76, 146, -1):
        tokens, label = found[index]
        assert tokens.dtype == torch.int64
        assert tokens.tolist() == kept[index]["tokens"]
        assert label == found.class_to_idx[kept[index]["label"]]
    for index in (147, -148):
        with pytest.raises(IndexError, match=f"row {index} of 147"):
            found[index]


@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_have_the_same_rows(dataset, method, workers):
    found = TokenDataset(dataset, ("key",))
    assert len(pickle.dumps(found)) < 5000
    torch.manual_seed(0)
    context = multiprocessing.get_context(method)
    loader = DataLoader(
        found, batch_size=32, shuffle=True, num_workers=workers, multiprocessing_context=context
    )
    together = [
        (key, tuple(own), label)
        for tokens, labels, columns in loader
        for key, own, label in zip(columns["key"], tokens.tolist(), labels.tolist(), strict=True)
    ]
    assert together != sorted(together)
    expected = [
        (row["key"], tuple(row["tokens"]), found.class_to_idx[row["label"]])
        for row in rows(dataset)
        if row["status"] == "ok"
    ]
    assert sorted(together) == sorted(expected)


def test_columns(captioned):
    names = ("key", "label", "width", "txt", "score", "square", "view", "error")
    tokens, columns = load_tokens(captioned, names)
    assert tokens[:, 0].tolist() == [0, 1, 3, 4, 5]
    assert tuple(columns) == names
    assert columns["key"].tolist() == [f"{n}.png" for n in (0, 1, 3, 4, 5)]
    assert columns["label"].tolist() == ["a", "b", "", "a", "b"]
    assert columns["width"].tolist() == [0, 10, -1, 40, 50]
    assert columns["width"].dtype == np.int64
    assert columns["txt"].tolist() == ["photo 0 ü", "photo 1 ü", "", "photo 4 ü", "photo 5 ü"]
    assert np.array_equal(columns["score"], [0.5, 1.5, np.nan, 4.5, 5.5], equal_nan=True)
    assert columns["square"].tolist() == [
        [n, 0, 32, 32] if n != 3 else [-1] * 4 for n in (0, 1, 3, 4, 5)
    ]
    assert load_tokens(captioned, ())[1] == {}
    dataset = TokenDataset(captioned, names)
    assert dataset.class_to_idx == {"a": 0, "b": 1}
    ((batch, classes, together),) = DataLoader(dataset, batch_size=8)
    assert batch[:, 0].tolist() == [0, 1, 3, 4, 5]
    assert classes.tolist() == [0, 1, -1, 0, 1]
    assert together["txt"] == columns["txt"].tolist()
    for name in ("width", "score", "square", "view"):
        assert np.array_equal(together[name], columns[name], equal_nan=name == "score")
    assert TokenDataset(captioned, ())[0][2] == {}


def test_columns_that_are_not_there_are_named(captioned):
    for read in (load_tokens, TokenDataset):
        with pytest.raises(DatasetError, match="no column 'caption'; its columns are key, "):
            read(captioned, ("key", "caption"))
        with pytest.raises(
            DatasetError, match=r"column tags holds neither text nor numbers: .*list<"
        ):
            read(captioned, ("tags",))


def test_grids_have_rows_and_columns(grids, tmp_path):
    kept = [row for row in rows(grids) if row["status"] == "ok"]
    expected = [row["tokens"] for row in kept]
    tokens, columns = load_tokens(grids, ("rows", "columns"))
    assert [row.tolist() for row in tokens] == expected
    dataset = TokenDataset(grids, ("rows", "columns"))
    assert [own.tolist() for own, _, _ in dataset] == expected
    shapes = [(row["rows"], row["columns"]) for row in kept]
    assert [(own["rows"], own["columns"]) for _, _, own in dataset] == shapes
    assert list(zip(columns["rows"], columns["columns"], strict=True)) == shapes
    source, bad = grids / "shard-00000.parquet", tmp_path / "bad.parquet"
    for height in (1, None, -3):
        own = [height, *(row["rows"] for row in rows(grids)[1:])]
        changed(source, bad, range(27), {"rows": own})
        for read in (load_tokens, lambda path: list(open_dataset(path).grids())):
            with pytest.raises(DatasetError, match=r"bad\.parquet: damaged: "):
                read(bad)


def test_one_view_of_each_image_in_an_epoch(flipped):
    def drawn(dataset, workers=0):
        loader = DataLoader(
            dataset, batch_size=16, num_workers=workers, persistent_workers=workers > 0
        )
        for epoch in range(8):
            dataset.set_epoch(epoch)
            columns = [own for _, _, own in loader]
            keys = [key for own in columns for key in own["key"]]
            assert keys == [f"{n:02}.png" for n in range(40) if n != 7]
            yield [view for own in columns for view in own["view"].tolist()]

    columns = ("key", "view")
    dataset = TokenDataset(flipped, columns, view="random", seed=3)
    assert len(dataset) == 39
    first = list(drawn(dataset))
    assert len({tuple(epoch) for epoch in first}) == 8
    assert all(set(views) == {0, 1} for views in zip(*first, strict=True))
    for again in (
        drawn(dataset),
        drawn(dataset, workers=1),
        drawn(pickle.loads(pickle.dumps(dataset))),
    ):
        assert list(again) == first
    assert list(drawn(TokenDataset(flipped, columns, view="random", seed=4))) != first
    for view in (0, 1):
        dataset = TokenDataset(flipped, columns, view=view)
        assert {own["view"] for _, _, own in dataset} == {view}
        assert len(dataset) == 39
    with pytest.raises(DatasetError, match="no row of view 2"):
        TokenDataset(flipped, view=2)


def test_images_are_rows_of_one_key_whose_views_rise(flipped, tmp_path):
    """Also of a file without some of the views, or with one image twice."""
    take = [0, 3, 5, *range(6), 4, 5]
    changed(flipped / "shard-00000.parquet", tmp_path / "some.parquet", take, {})
    dataset = TokenDataset(tmp_path / "some.parquet", ("key",), view="random")
    keys = [own["key"] for _, _, own in dataset]
    assert keys == [f"{n:02}.png" for n in (0, 1, 2, 0, 1, 2, 2)]


class Shapes:
    """Items of these shapes, in every epoch."""

    epoch = 0

    def __init__(self, shapes):
        self.values = shapes

    def set_epoch(self, epoch):
        self.epoch = epoch

    def shapes(self):
        return self.values


SHAPES = st.lists(st.integers(0, 4), max_size=60).map(lambda shapes: np.array(shapes, np.int64))


@given(SHAPES, st.integers(1, 9), st.integers(1, 4), st.booleans(), st.integers(0, 2**32))
def test_buckets(shapes, batch_size, world, drop_last, seed):
    samplers = [
        BucketSampler(Shapes(shapes), batch_size, seed, rank, world, drop_last)
        for rank in range(world)
    ]
    for epoch in (0, 1):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        ranks = [list(sampler) for sampler in samplers]
        assert [len(rank) for rank in ranks] == [len(samplers[0])] * world
        batches = [batch for rank in ranks for batch in rank]
        items = [item for batch in batches for item in batch]
        assert len(items) == len(set(items))
        assert all(len(set(shapes[batch])) == 1 for batch in batches)
        # What is left out: fewer batches than there are ranks, and short ones if asked for.
        sizes = Counter(shapes.tolist()).values()
        short = [size % batch_size for size in sizes if size % batch_size]
        made = sum(size // batch_size for size in sizes) + (0 if drop_last else len(short))
        assert len(batches) == made - made % world
        assert ranks == [list(sampler) for sampler in samplers]
        if drop_last:
            assert {len(batch) for batch in batches} <= {batch_size}
        if world == 1 and not drop_last:
            assert sorted(items) == list(range(len(shapes)))


def test_batches_of_one_shape(grids, dataset, flipped):
    found = TokenDataset(grids, ("key", "rows", "columns"))
    seen = []
    for rank in (0, 1):
        sampler = found.bucket_sampler(4, seed=1, rank=rank, world=2)
        loader = DataLoader(found, batch_sampler=sampler)
        assert len(loader) == 4  # 16 of a shape, 9 and 1: 4 + 3 + 1 batches
        for tokens, _, columns in loader:
            assert (
                len({*zip(columns["rows"].tolist(), columns["columns"].tolist(), strict=True)}) == 1
            )
            assert tokens.shape[1] == columns["rows"][0] * columns["columns"][0]
            seen += columns["key"]
    assert sorted(seen) == sorted(f"{n:02}.png" for n in range(26))
    orders = []
    sampler = found.bucket_sampler(4)
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[2] != orders[1]
    assert {len(batch) for batch in found.bucket_sampler(4, drop_last=True)} == {4}
    one_shape = TokenDataset(dataset)
    assert sorted(chain.from_iterable(one_shape.bucket_sampler(10))) == list(range(147))
    views = TokenDataset(flipped, view="random")
    assert sorted(chain.from_iterable(views.bucket_sampler(10))) == list(range(39))
    for wrong in ({"batch_size": 0}, {"batch_size": 2, "rank": 1}):
        with pytest.raises(ArgumentError):
            one_shape.bucket_sampler(**wrong)


def test_batches_of_one_shape_of_views_of_several(grids, tmp_path):
    """Random crops of an image may differ in shape: then the batches are others in each epoch."""
    columns = {"key": [f"{n // 2}.png" for n in range(26)], "view": [n % 2 for n in range(26)]}
    path = changed(grids / "shard-00000.parquet", tmp_path / "views.parquet", range(26), columns)
    dataset = TokenDataset(path, ("key", "rows", "columns"), view="random")
    assert len(dataset) == 13
    made = []
    for epoch in range(4):
        samplers = [dataset.bucket_sampler(3, rank=rank, world=2) for rank in (0, 1)]
        samplers[0].set_epoch(epoch)
        batches = [batch for sampler in samplers for batch in sampler]
        assert len(batches) == 2 * len(samplers[0]) == 2 * len(samplers[1])
        for tokens, _, own in DataLoader(dataset, batch_sampler=batches):
            assert tokens.shape[1] == own["rows"][0] * own["columns"][0]
        made.append([dataset[index][2] for index in range(13)])
    assert made[0] != made[1]


def test_streams_resume_inside_an_epoch(flipped, tmp_path, monkeypatch):
    """As the guide says, on two nodes and with two workers: no row is lost or read twice."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.01, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset").symlink_to(flipped)
    guide = (PACKAGE / "dataset" / "README.md").read_text()
    (program,) = re.findall(r"```py\n(.*?)```", guide, re.DOTALL)
    names: dict = {}
    exec(program, names)
    expected = load_tokens(flipped)

    def tokens_of(stream):
        return [tuple(row["tokens"].tolist()) for row in stream]

    read = []
    for rank in (0, 1):
        whole = tokens_of(names["stream"](rank, 2))
        for stop in (1, 17, 30):  # 17 rows are inside a shard
            begun = names["stream"](rank, 2)
            first = tokens_of(islice(begun, stop))
            resumed = names["stream"](rank, 2)
            resumed.load_state_dict(begun.state_dict())
            assert first + tokens_of(resumed) == whole
        read += whole
    assert sorted(read) == sorted(map(tuple, expected.tolist()))
    tokens = names["stream"](0, 1).select_columns("tokens")
    loader = DataLoader(tokens, batch_size=8, num_workers=2)
    batches = [row for batch in loader for row in batch["tokens"].tolist()]
    assert sorted(batches) == sorted(expected.tolist())


def test_arrow_reads_tokens_without_copying(flipped, tmp_path):
    datasets = pytest.importorskip("datasets")
    files = [str(path) for path in sorted(flipped.glob("*.parquet"))]
    read = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "hf")
    )
    tokens = read.with_format("arrow")[:10]["tokens"].combine_chunks()
    assert tokens.type == pa.list_(pa.uint16(), 16)
    values = tokens.flatten().to_numpy(zero_copy_only=True).reshape(-1, 16)
    assert np.array_equal(values, load_tokens(flipped)[:10])
