"""Reading token datasets, also damaged and hostile ones."""

import io
import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import PHOTOS
from PIL import Image

import tokcodec
from tokcodec import Codec, TokenDataset, TokenFile, load_tokens
from tokcodec.errors import DatasetError, Hint, OutputError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from tokenized import TINY, go, image, rows  # noqa: E402

from tokcodec.dataset.folder import DatasetFolder  # noqa: E402
from tokcodec.dataset.reader import class_numbers, open_dataset, token_files  # noqa: E402
from tokcodec.io.parquet import batch_size  # noqa: E402

pytestmark = pytest.mark.parquet
TOKENS = pa.list_(pa.uint16(), 16)  # of the tiny checkpoint
LISTS = pa.list_(pa.uint16())


@pytest.fixture(scope="module")
def codec():
    return Codec.load(TINY, "cpu")


def test_images_come_back(run, dataset, codec, tmp_path):
    weights = ("--weights", TINY)
    run("decode", dataset, "-o", tmp_path / "all", *weights, status=3)
    names = {p.relative_to(tmp_path / "all").as_posix() for p in (tmp_path / "all").rglob("*.png")}
    kept = [row for row in rows(dataset) if row["status"] == "ok"]
    assert names == {row["key"] + ".png" for row in kept}
    token_file = codec.compress(io.BytesIO(image(4)))
    image_again = np.asarray(Image.open(tmp_path / "all" / "cat" / "0004.png.png"))
    assert np.array_equal(image_again, np.asarray(codec.decompress(token_file)))
    some = ("--select", "cat/0004.png", "--row", "5")
    run("decode", dataset, "-o", tmp_path / "some", *weights, *some)
    assert {p.name for p in (tmp_path / "some" / "cat").iterdir()} == {
        "0004.png.png",
        "0010.png.png",
    }
    said = run(
        "decode", dataset, "-o", "x", *weights, "--select", "nothing", status=1, cwd=tmp_path
    )
    assert b"nothing" in said.stderr


def test_a_name_with_a_colon_is_no_url(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(dataset, "random:3")
    assert len(load_tokens("random:3")) == len(load_tokens(dataset))


def test_keys_of_digits_are_not_row_numbers(run, tmp_path):
    for number in range(3):
        (tmp_path / f"{number + 1}.png").write_bytes(image(number))
    go([], tmp_path / "d.parquet", listed=[str(tmp_path / f"{n}.png") for n in (1, 2, 3)])
    table = pq.read_table(tmp_path / "d.parquet")
    table = table.set_column(0, table.schema.field(0), pa.array(["1", "2", "3"]))
    pq.write_table(table, tmp_path / "d.parquet")
    for option, names in (("--select", {"1.png"}), ("--row", {"2.png"})):
        out = tmp_path / option
        run("decode", tmp_path / "d.parquet", "-o", out, "--weights", TINY, option, "1")
        assert {path.name for path in out.iterdir()} == names
    run("decode", tmp_path / "d.parquet", "-o", "x", "--weights", TINY, "--row", "3", status=1)


def test_keys_that_leave_the_folder(run, dataset, tmp_path):
    file = dataset / "shard-00001.parquet"
    table = pq.read_table(file)
    evil = ["../up.png", "/tmp/root.png", "a/../../b.png", "..", "good.png", "good.png"]
    keys = pa.array(evil + table.column("key").to_pylist()[len(evil) :])
    table = table.set_column(0, "key", keys).slice(0, len(evil))
    metadata = {**table.schema.metadata, b"tokcodec.shards": b"1"}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "evil.parquet")
    (tmp_path / "inner").mkdir()
    arguments = (tmp_path / "evil.parquet", "-o", "out", "--weights", TINY)
    said = run("decode", *arguments, cwd=tmp_path / "inner", status=3).stderr.decode()
    assert said.count("its key leaves the folder of the images") == 4
    assert said.count("a second row of this key") == 1
    found = {p.name for p in tmp_path.rglob("*.png")}
    assert found == {"good.png.png"}


def test_stats_and_inspect(run, dataset):
    facts = json.loads(run("inspect", dataset, "--json").stdout)
    assert (facts["kind"], facts["shards"], facts["rows"]) == ("token dataset", 2, 150)
    assert facts["failed"] == 3
    report = json.loads(run("stats", dataset, "--json", status=3).stdout)
    assert (report["images"], report["failed"]) == (147, 3)
    assert report["raw_bytes"] == 147 * 32 * 32 * 3
    assert report["payload_bits"] == 147 * 16 * 6
    assert report["file_bytes"] == sum(p.stat().st_size for p in dataset.glob("*.parquet"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([60] + [1] * 15, "damaged: token 60 of a codebook of 60"),
        ([None] + [1] * 15, "damaged: a row with a missing token"),
    ],
)
def test_tokens_that_cannot_be_are_named(dataset, tmp_path, row, message):
    changed(dataset, tmp_path / "bad", TOKENS, row)
    for read in (load_tokens, TokenDataset):
        with pytest.raises(DatasetError, match=f"bad/shard-00001.parquet: {message}"):
            read(tmp_path / "bad")
    found = dict(token_files(open_dataset(tmp_path / "bad")))
    assert sum(isinstance(file, TokenFile) for file in found.values()) == 146
    assert sum(message in str(file) for file in found.values()) == 1


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        (LISTS, [1] * 15),
        (pa.list_(pa.uint16(), 17), [1] * 17),
        (pa.list_(pa.int32(), 16), [-1] * 16),
        (pa.list_(pa.string()), ["a"] * 16),
    ],
    ids=str,
)
def test_tokens_of_another_type_are_refused(dataset, tmp_path, kind, row):
    changed(dataset, tmp_path / "bad", kind, row)
    with pytest.raises(DatasetError, match=r"shard-00001\.parquet: .* column tokens is .*list"):
        open_dataset(tmp_path / "bad")


def test_rows_shorter_than_the_type_says_are_damage(dataset, tmp_path):
    """Parquet stores a fixed-size list as any list; Arrow's schema in the file has the size."""
    source = dataset / "shard-00001.parquet"
    schema = pq.read_metadata(source).metadata[b"ARROW:schema"]
    changed(dataset, tmp_path / "bad", LISTS, [1] * 15)
    path = tmp_path / "bad" / "shard-00001.parquet"
    table = pq.read_table(path)
    facts = {**table.schema.metadata, b"ARROW:schema": schema}
    with pq.ParquetWriter(path, table.schema, store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(facts)
    for read in (load_tokens, TokenDataset, list_token_files):
        with pytest.raises(DatasetError, match=r"shard-00001\.parquet: damaged: .*16"):
            read(tmp_path / "bad")


def every_status(state):
    def change(columns, _):
        columns["status"] = pa.array([state] * len(columns["status"]), pa.string())

    return change


def no_tokens(columns, _):
    columns["tokens"] = pa.nulls(len(columns["tokens"]), columns["tokens"].type)


def one_status(state):
    def change(columns, _):
        states = columns["status"].to_pylist()
        assert states[0] == "ok"
        columns["status"] = pa.array([state, *states[1:]], pa.string())

    return change


@pytest.mark.parametrize(
    "change",
    [one_status("failed"), one_status(None), every_status("failed"), no_tokens],
    ids=["one failed", "one null", "all failed", "no tokens"],
)
def test_status_and_tokens_that_disagree_are_refused(dataset, tmp_path, change):
    """Else labels would be given to the tokens of other rows."""
    damaged(dataset, tmp_path / "bad.parquet", change)
    for read in (load_tokens, TokenDataset, list_token_files):
        with pytest.raises(DatasetError, match=r"bad\.parquet: damaged: rows whose status and tok"):
            read(tmp_path / "bad.parquet")


def test_commands_name_what_is_damaged(run, dataset, tmp_path):
    changed(dataset, tmp_path / "bad", TOKENS, [60] * 16)
    message = b"bad/shard-00001.parquet: damaged: token 60 of a codebook of 60"
    export_it = ("export", "bad", "-o", "t.npy")
    use_it = ("train-prior", "bad", "--weights", TINY, "-o", "p.safetensors")
    for command in (export_it, use_it, ("inspect", "bad")):
        assert message in run(*command, status=1, cwd=tmp_path).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]
    counted = run("stats", "bad", status=3, cwd=tmp_path).stderr
    assert b"bad: 3 of 150 rows failed when they were made" in counted
    assert message in counted
    # The other rows come back.
    done = run("decode", "bad", "-o", "out", "--weights", TINY, status=3, cwd=tmp_path)
    assert message in done.stderr
    assert len(list((tmp_path / "out").rglob("*.png"))) == 146


def changed(dataset, folder, kind, row):
    """A copy of the dataset whose tokens are of this type, the last ones these; all of them, where
    the others cannot be of this type."""
    shutil.copytree(dataset, folder)
    path = folder / "shard-00001.parquet"
    table = pq.read_table(path)
    tokens = table.column("tokens").to_pylist()
    tokens = [*tokens[:-1], row] if kind in (TOKENS, LISTS) else [row] * len(tokens)
    index = table.column_names.index("tokens")
    pq.write_table(table.set_column(index, pa.field("tokens", kind), pa.array(tokens, kind)), path)


def damaged(dataset, path, change):
    """The second shard, its columns (a dict) and metadata changed."""
    table = pq.read_table(dataset / "shard-00001.parquet")
    columns, facts = {n: table.column(n) for n in table.column_names}, dict(table.schema.metadata)
    change(columns, facts)
    facts[b"tokcodec.shards"] = b"1"
    pq.write_table(pa.table(columns).replace_schema_metadata(facts), path, compression="zstd")


RUN = {"fit": "stretch", "views": "one", "tokens": 16}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("run", "[]", "tokcodec.run is not a JSON object"),
        ("run", "{}", "its metadata has no 'fit'"),
        ("run", "[" * 100_000, "nested deeper than 32 levels"),
        ("run", json.dumps({**RUN, "fit": "zoom"}), "fit 'zoom', not one of"),
        ("run", json.dumps({**RUN, "views": []}), "views []: must be one, hflip"),
        ("run", json.dumps({**RUN, "tokens": None}), "tokens None of the fit"),
        ("run", json.dumps({**RUN, "tokens": 17}), "tokens 17 of the fit"),
        ("model_id", "zz", "model_id is not 64 hex digits"),
        ("width", None, "column width is not there"),
        ("key", pa.int64(), "column key is int64; it should be string"),
    ],
)
def test_hostile_metadata_is_refused(dataset, tmp_path, name, value, message):
    def change(columns, facts):
        if isinstance(value, str):
            facts[f"tokcodec.{name}".encode()] = value.encode()
        elif column := value and pa.array(range(len(columns[name])), value):
            columns[name] = column
        else:
            del columns[name]

    damaged(dataset, tmp_path / "bad.parquet", change)
    with pytest.raises(DatasetError) as refused:
        open_dataset(tmp_path / "bad.parquet")
    assert str(refused.value).startswith(f"{tmp_path}/bad.parquet: ")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"), [("width", None), ("width", 70000), ("key", None), ("key", b"\xff")]
)
def test_a_damaged_row_is_that_rows_error(dataset, tmp_path, name, value):
    def change(columns, _):
        kind = columns[name].type
        values = [*columns[name].to_pylist()[:-1], value]
        storage = pa.binary() if isinstance(value, bytes) else kind
        (columns[name],) = pa.chunked_array([pa.array(values, storage).view(kind)]).chunks

    damaged(dataset, tmp_path / "bad.parquet", change)
    *others, (_, error) = token_files(open_dataset(tmp_path / "bad.parquet"))
    assert len(others) == 49
    assert all(isinstance(file, TokenFile) for _, file in others)
    assert isinstance(error, DatasetError)
    assert "bad.parquet: damaged: " in str(error)


def without_pages(path):
    """Leaves of a Parquet file its length and its footer."""
    data = path.read_bytes()
    end = data.rindex(b"PAR1") - 4
    start = end - int.from_bytes(data[end : end + 4], "little")
    path.write_bytes(b"PAR1" + bytes(start - 4) + data[start:])


def test_a_damaged_file_is_named_by_whatever_reads_it(dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "bad")
    without_pages(tmp_path / "bad" / "shard-00001.parquet")
    for read in (TokenDataset, load_tokens, lambda bad: list(open_dataset(bad).failures())):
        with pytest.raises(DatasetError, match=r"bad/shard-00001\.parquet: damaged: .*again$"):
            read(tmp_path / "bad")
    sources = [dataset.parent / "in"]
    with pytest.raises(DatasetError, match=r"shard-00001\.parquet: damaged: .*; delete it"):
        go(sources, tmp_path / "bad")
    assert go(sources, tmp_path / "bad", force=True) == (150, 3)
    with (
        pytest.raises(OutputError, match="bad: it says no more") as refused,
        DatasetFolder(tmp_path / "bad").lock(),
    ):
        raise OSError("it says no more")  # as pyarrow's, without a strerror
    assert refused.value.hint is Hint.OTHER_OUTPUT


def test_memory_does_not_follow_the_number_of_rows_that_a_file_claims():
    claims = Path(__file__).parent / "fuzz/corpus/dataset"
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        # Its row group claims 1,000,000,000 rows.
        assert len(load_tokens(claims / "many-rows.parquet")) == 1
        with pytest.raises(DatasetError, match=r"missing-row\.parquet: damaged: holds 2 of 3 rows"):
            load_tokens(claims / "missing-row.parquet")
    finally:
        pa.set_memory_pool(before)
    assert pool.max_memory() < 16 << 20


def test_equal_rows_and_tokens_take_memory_in_proportion_to_the_file(dataset, tmp_path):
    """Their columns are a few bytes, as run lengths."""

    def repeat(columns, _):
        for name, column in columns.items():
            columns[name] = column.take([0] * 100_000)

    damaged(dataset, tmp_path / "rows.parquet", repeat)
    table = pq.read_table(Path(__file__).parent / "fuzz/corpus/dataset/aspect.parquet")[:1]
    place = table.schema.get_field_index("tokens")
    tokens = pa.array([np.zeros(20_000_000, np.uint16)])
    table = table.set_column(place, table.schema.field(place), tokens)
    pq.write_table(table, tmp_path / "tokens.parquet")
    for name in ("rows.parquet", "tokens.parquet"):
        assert (tmp_path / name).stat().st_size < 20_000
        with pytest.raises(DatasetError, match=f"{name}: .* bytes"):
            load_tokens(tmp_path / name)


def test_missing_lists_of_any_size_take_no_memory(tmp_path):
    """Each would have all of its values in memory."""
    wide = pa.table({"vector": pa.nulls(1, pa.list_(pa.list_(pa.int8(), 1 << 16), 1 << 11))})
    pq.write_table(wide, tmp_path / "wide.parquet")
    with pytest.raises(DatasetError, match="each value of column vector expands to 134,217,728"):
        batch_size(pq.ParquetFile(tmp_path / "wide.parquet"), 0, ["vector"], 512)
    some = pa.table({"vector": pa.nulls(99, pa.list_(pa.int8(), 1 << 20))})
    pq.write_table(some, tmp_path / "some.parquet")
    assert batch_size(pq.ParquetFile(tmp_path / "some.parquet"), 0, ["vector"], 512) == 64


def test_no_damaged_footer_ends_the_process(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [b"0", b"1"]}), path, store_schema=False)
    subprocess.run([sys.executable, "-c", EVERY_FOOTER, path], check=True)


EVERY_FOOTER = """
import contextlib, io, sys
import pyarrow.parquet as pq
from tokcodec.errors import DatasetError
from tokcodec.io.parquet import batch_size

data = bytearray(open(sys.argv[1], "rb").read())
tried = 0
for place in range(4, len(data) - 8):
    for bit in range(8):
        data[place] ^= 1 << bit
        with contextlib.suppress(OSError, DatasetError, ValueError):
            file = pq.ParquetFile(io.BytesIO(data))
            batch_size(file, 0, ["image"], 64)
            tried += 1
        data[place] ^= 1 << bit
assert tried
"""


def test_shards_are_those_of_the_run_each_once(dataset, tmp_path):
    for source, target in ((0, 1), (1, 0), (1, 2)):
        bad = tmp_path / f"{source}-{target}"
        shutil.copytree(dataset, bad)
        names = [f"shard-{number:05}.parquet" for number in (source, target)]
        shutil.copy(bad / names[0], bad / names[1])
        for read in (
            load_tokens,
            TokenDataset,
            partial(tokcodec.export, output=tmp_path / "x.npy"),
        ):
            with pytest.raises(DatasetError, match=names[1]):
                read(bad)
        assert not (tmp_path / "x.npy").exists()


def test_numeric_labels_are_their_own_class(run, tmp_path):
    assert class_numbers(["10", "2", str(10**17)]) == {"2": 2, "10": 10, str(10**17): 10**17}
    for text in ("01", "x", "9" * 20, "9" * 5000, "٣"):
        numbers = class_numbers(["10", text])
        assert sorted(numbers, key=numbers.__getitem__) == sorted(["10", text])
        assert sorted(numbers.values()) == [0, 1]
    for label in ("2", "10"):
        (tmp_path / "in" / label).mkdir(parents=True)
        shutil.copy(PHOTOS[0], tmp_path / "in" / label)
    run("tokenize", tmp_path / "in", "-o", tmp_path / "numbers", "--weights", TINY)
    found = TokenDataset(tmp_path / "numbers")
    assert sorted(label for _, label in found) == [2, 10]
    assert tokcodec.export(tmp_path / "numbers", tmp_path / "t.jsonl") == 2
    lines = map(json.loads, (tmp_path / "t.jsonl").open())
    assert sorted(line["class_id"] for line in lines) == [2, 10]
    assert json.loads((tmp_path / "t.jsonl.meta.json").read_text())["classes"] is None


def list_token_files(path):
    return list(token_files(open_dataset(path)))


def test_no_flipped_bit_changes_tokens(dataset, tmp_path):
    data = (dataset / "shard-00001.parquet").read_bytes()
    expected = load_tokens(dataset / "shard-00001.parquet")
    rng = np.random.default_rng(0)
    path = tmp_path / "flipped.parquet"
    refused = 0
    for place in rng.choice(8 * len(data), 1500, replace=False):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            found = load_tokens(path)
        except DatasetError:
            refused += 1
        else:
            assert np.array_equal(found, expected)
    assert refused > 500


def test_half_a_dataset_is_no_dataset(dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "half")
    (tmp_path / "half" / "shard-00000.parquet").unlink()
    with pytest.raises(DatasetError, match="half: holds 1 of 2 shards"):
        load_tokens(tmp_path / "half")
    with pytest.raises(DatasetError, match="no such token dataset"):
        load_tokens(tmp_path / "no")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DatasetError, match="holds no shards"):
        load_tokens(tmp_path / "nothing")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(DatasetError, match=r"other\.parquet: not a token dataset"):
        load_tokens(tmp_path / "other.parquet")
    share = tmp_path / "half" / "shard-00001.parquet"
    table = pq.read_table(share)
    facts = {**table.schema.metadata, b"tokcodec.config": b"{}"}
    pq.write_table(table.replace_schema_metadata(facts), share)
    with pytest.raises(DatasetError, match=r"shard-00001\.parquet: .*encoder"):
        load_tokens(share)
