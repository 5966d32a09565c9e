"""What tokenize reads: names, lists, tars, Parquet, URLs."""

import io
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tokcodec import Codec, load_tokens
from tokcodec.errors import DatasetError, OutputError
from tokcodec.io.remote import open_input

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from tokenized import TINY, go, image, rows  # noqa: E402

pytestmark = pytest.mark.parquet


@pytest.fixture(scope="module")
def codec():
    return Codec.load(TINY, "cpu")


def test_names_of_every_kind(tmp_path):
    source = tmp_path / "in"
    (source / "ä b").mkdir(parents=True)
    names = ["ä b/日本.png", "ä b/a'\"b.png", "[x].png", "same.jpg", "same.png"]
    for number, name in enumerate(names):
        (source / name).write_bytes(image(number))
    (source / "link.png").symlink_to(source / "same.png")
    (source / "dangling.png").symlink_to(source / "nowhere.png")
    (source / "folder.png").mkdir()
    go([source], tmp_path / "a.parquet")
    found = {row["key"]: row for row in rows(tmp_path / "a.parquet")}
    assert set(found) == {*names, "link.png", "dangling.png"}
    assert found["dangling.png"]["error"] == "cannot read: No such file or directory"
    assert found["link.png"]["tokens"] == found["same.png"]["tokens"]
    # A glob, and a list, give the same tokens under their own keys.
    go([source / "*" / "*.png"], tmp_path / "b.parquet")
    globbed = [row["key"] for row in rows(tmp_path / "b.parquet")]
    assert globbed == ["ä b/a'\"b.png", "ä b/日本.png"]
    listed = [str(source / "same.png"), str(source / "gone.png")]
    go([], tmp_path / "c.parquet", listed=listed)
    assert [row["key"] for row in rows(tmp_path / "c.parquet")] == listed
    assert [row["status"] for row in rows(tmp_path / "c.parquet")] == ["ok", "failed"]


def test_lists_at_the_command_line(start, run, tmp_path, many):
    names = "\n".join(map(str, sorted(many.rglob("*.png"))[:5])) + "\n"
    (tmp_path / "list.txt").write_text(names)
    options = ("--weights", TINY, "-o")
    run("tokenize", "--from-file", tmp_path / "list.txt", *options, tmp_path / "a.parquet")
    start("tokenize", "--from-file", "-", *options, tmp_path / "b.parquet", stdin=names.encode())
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert len(rows(tmp_path / "a.parquet")) == 5
    for arguments, message in (
        (["-o", "x"], "no images: name sources"),
        (["nowhere", "-o", "x"], "nowhere: no such file or folder"),
        ([many, "-o", "x", "--shard", "2/2"], "I/N"),
        ([many, "-o", "x.parquet", "--shard", "0/2"], "parts need a folder"),
        (["--from-file", "absent", "-o", "x"], "absent: cannot read as text"),
    ):
        status = 2 if message.startswith(("no images", "I/N")) else 1
        said = run("tokenize", *arguments, cwd=tmp_path, status=status).stderr.decode()
        assert message in said


def test_two_inputs_of_one_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one/twin.png", "two/twin.png", "two/other.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(image(len(name)))
    # Folders keep their names, and no two labels become one.
    go(["one", "two"], tmp_path / "out")
    expected = [("one/twin.png", "one"), ("two/other.png", "two"), ("two/twin.png", "two")]
    assert [(row["key"], row["label"]) for row in rows(tmp_path / "out")] == expected
    # What a list names keeps that name.
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree("one", "elsewhere/one")
    monkeypatch.chdir("elsewhere")
    with pytest.raises(DatasetError, match=r"would both have the key one/twin\.png"):
        go(["../one", "../two"], tmp_path / "x", listed=["one/twin.png"])


def test_members_of_tars_are_all_there(codec, tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for number, name in enumerate(
            ["img.001.png", "img.002.png", "a/.hid.png", "twin.png", "twin.png", "b.jpg.png"]
        ):
            member = tarfile.TarInfo(name)
            member.size = len(image(number))
            tar.addfile(member, io.BytesIO(image(number)))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.LNKTYPE, "twin.png"
        tar.addfile(link)
    assert go([tmp_path / "t.tar"], tmp_path / "out.parquet") == (7, 1)
    found = rows(tmp_path / "out.parquet")
    names = ["img.001.png", "img.002.png", "a/.hid", "twin", "twin", "b", "link"]
    assert [row["key"] for row in found] == names
    for number in range(6):
        expected = codec.compress(io.BytesIO(image(number))).tokens.tolist()
        assert found[number]["tokens"] == expected
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    assert go([tmp_path / "empty.tar", tmp_path / "t.tar"], tmp_path / "o") == (7, 1)
    assert len(load_tokens(tmp_path / "o")) == 6
    with tarfile.open(tmp_path / "z.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "t.tar", "not-a-image.tar")
    (tmp_path / "in").mkdir()
    shutil.copy(tmp_path / "z.tar.gz", tmp_path / "in")
    assert go([tmp_path / "in"], tmp_path / "p") == (0, 0)


def test_odd_names_and_links(tmp_path):
    source = tmp_path / "in"
    (source / "real").mkdir(parents=True)
    (source / "real" / "a.png").write_bytes(image(1))
    (source / "linked").symlink_to(source / "real", target_is_directory=True)
    (source / "loop").symlink_to(source, target_is_directory=True)
    with open(os.fsencode(str(source)) + b"/bad\xff.png", "wb") as file:
        file.write(image(2))
    go([source], tmp_path / "a.parquet")
    found = [row["key"] for row in rows(tmp_path / "a.parquet")]
    assert found == ["bad\\xff.png", "real/a.png"]
    # The same file twice is one row; the list may be of Windows.
    names = [str(source / "real" / "a.png")] * 2
    go([], tmp_path / "b.parquet", listed=names)
    assert len(rows(tmp_path / "b.parquet")) == 1
    with pytest.raises(DatasetError, match=r"x\.tar: lists hold images"):
        go([], tmp_path / "c.parquet", listed=["x.tar"])


def test_the_output_is_no_input(many, tmp_path):
    shutil.copytree(many / "cat", tmp_path / "in")
    for name in ("in/out", "in/out.parquet"):
        for _ in range(2):
            assert go([tmp_path / "in"], tmp_path / name, limit=30) == (30, 0)
        if name == "in/out":
            shutil.rmtree(tmp_path / name)
    (tmp_path / "in" / "out.parquet").unlink()
    cells = pa.array([{"bytes": image(0), "path": None}])
    for name in ("self.parquet", "folder/shard-00000.parquet"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"image": cells}), path)
        output = path if name == "self.parquet" else path.parent
        for other in (path, tmp_path / "in"):
            with pytest.raises((DatasetError, OutputError)):
                go([other], output, force=True, limit=3)
            assert pq.read_table(path).num_rows == 1  # the images are still there


def test_tars(codec, tmp_path):
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / "shards" / f"{shard}.tar", "w") as tar:

            def add(name, data, tar=tar):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))

            for number in range(3):
                key = f"sub/{shard}{number}"
                add(f"{key}.png", image(10 * shard + number))
                add(f"{key}.cls", f"{number}\n".encode())
                if number:
                    add(f"{key}.txt", "caption ü".encode())
                    add(f"{key}.json", b'{"a": 1}')
            add(f"sub/only{shard}.cls", b"5")
    go([tmp_path / "shards"], tmp_path / "out", rows_per_shard=2)
    assert [p.name for p in sorted((tmp_path / "out").glob("*.parquet"))] == [
        "shard-00000.parquet",
        "shard-00001.parquet",
    ]
    found = rows(tmp_path / "out")
    assert [row["key"] for row in found] == [
        "sub/00", "sub/01", "sub/02", "sub/only0", "sub/10", "sub/11", "sub/12", "sub/only1",
    ]  # fmt: skip
    assert [row["label"] for row in found] == ["0", "1", "2", "5"] * 2
    assert (found[1]["txt"], found[1]["json"], found[0]["txt"]) == ("caption ü", '{"a": 1}', None)
    assert found[3]["error"] == "cannot read: no image under this key"
    expected = codec.compress(io.BytesIO(image(12))).tokens.tolist()
    assert found[6]["tokens"] == expected
    go([tmp_path / "shards" / "1.tar"], tmp_path / "b.parquet", limit=2)
    assert [row["key"] for row in rows(tmp_path / "b.parquet")] == ["sub/10", "sub/11"]
    # What is left of a damaged tar is there, and a failed row says that something is not.
    whole = (tmp_path / "shards" / "0.tar").read_bytes()
    (tmp_path / "shards" / "0.tar").write_bytes(whole[:5000])
    assert go([tmp_path / "shards"], tmp_path / "c") == (6, 2)
    found = rows(tmp_path / "c")
    assert [row["key"] for row in found[:2]] == ["sub/00", "0.tar"]
    assert found[0]["status"] == "ok"
    assert found[1]["error"].startswith("cannot read: the rest of the tar: ")


def test_texts_beside_images(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = Path("in")
    (source / "dir").mkdir(parents=True)
    for number, name in enumerate(["a.png", "b.jpg", "b.png", "dir/a.png", "dir/v1.0.png"]):
        (source / name).write_bytes(image(number))
    (source / "a.txt").write_text("caption ü")
    (source / "b.json").write_text('{"a": 1}')
    (source / "dir" / "v1.0.TXT").write_bytes(b"caf\xe9")
    (source / "alone.txt").write_text("of no image")
    texts = {
        "a.png": ("caption ü", None),
        "b.jpg": (None, '{"a": 1}'),
        "b.png": (None, '{"a": 1}'),
        "dir/a.png": (None, None),
        "dir/v1.0.png": ("caf\ufffd", None),
    }

    def found(path):
        return {row["key"]: (row["txt"], row["json"]) for row in rows(tmp_path / path)}

    done = run("tokenize", "in", "-o", "a.parquet", "--weights", TINY)
    assert b"skipped in folders: .txt (1)\n" in done.stderr
    assert found("a.parquet") == texts
    assert [row["source"] for row in rows(tmp_path / "a.parquet")] == [f"in/{key}" for key in texts]
    # A glob has the texts beside its images, and --include is of images alone.
    go(["in/**/*.*[gG]"], "b.parquet")
    assert found("b.parquet") == {**texts, "dir/v1.0.png": (None, None)}  # its name ends in .TXT
    go(["in"], "c.parquet", include=["*.png"], exclude=["*.TXT"])
    assert found("c.parquet")["a.png"] == texts["a.png"]
    assert found("c.parquet")["dir/v1.0.png"] == (None, None)
    go(["in/a.png"], "d.parquet")
    assert rows(tmp_path / "d.parquet")[0]["txt"] == "caption ü"
    assert pq.read_schema("d.parquet").names[-1] == "txt"
    # Without texts there are no such columns.
    go(["in/dir/a.png"], "e.parquet")
    assert pq.read_schema("e.parquet").names[-1] == "error"
    assert go(["in/alone.txt"], "f.parquet") == (1, 1)
    # A text that has changed makes another row, and one that cannot be read a row of its own.
    (source / "a.txt").write_text("another")
    with pytest.raises(OutputError, match="its inputs have changed"):
        go(["in"], "a.parquet", rows_per_shard=10_000)
    with (source / "a.txt").open("wb") as file:
        file.truncate((1 << 24) + 1)
    (source / "b.json").unlink()
    (source / "b.json").symlink_to("/proc/self/mem")
    assert go(["in"], "g") == (8, 3)
    failed = {row["key"]: row["error"] for row in rows(tmp_path / "g") if row["error"]}
    assert failed == {
        "a.txt": "cannot read: 16,777,217 bytes, more than the limit of 16,777,216",
        "b.json": "cannot read: Input/output error",
    }
    assert go(["in"], "g") == (8, 3)


def test_columns_of_parquet(run, tmp_path):
    columns = {
        "image": pa.array([image(n) for n in range(3)]),
        "caption": ["one", None, "ü"],
        "score": [0.5, 1.0, None],
        "tags": [["a"], [], ["ü"]],
        "source": ["x"] * 3,
        "length": ["x"] * 3,
    }
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    command = ["tokenize", "in.parquet", "--weights", TINY, "-o"]
    run(*command, "out", "--columns", "caption,score,tags", cwd=tmp_path)
    found = [
        [row[n] for n in ("caption", "score", "tags", "source")] for row in rows(tmp_path / "out")
    ]
    assert found == [
        ["one", "0.5", '["a"]', "in.parquet"],
        [None, "1.0", "[]", "in.parquet"],
        ["ü", None, '["ü"]', "in.parquet"],
    ]
    for output, names, message in (
        ("x", "url", "in.parquet: has no column url; its columns are image, caption, score, tags"),
        ("x", "source", "token datasets have a column source of their own; rename that one"),
        ("x", "length", "exports have a column length of their own; rename that one"),
        ("out", "caption", "was made with text_columns ['caption', 'score', 'tags'], not"),
    ):
        done = run(*command, output, "--columns", names, cwd=tmp_path, status=1)
        assert message in done.stderr.decode().splitlines()[-1]
    (tmp_path / "a.png").write_bytes(image(0))
    with pytest.raises(DatasetError, match="no Parquet file to take caption from"):
        go([tmp_path / "a.png"], tmp_path / "x", columns=["caption"])


def test_parquet_inputs(codec, tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    values = [{"bytes": image(n), "path": f"{n}.png" if n % 2 else None} for n in range(7)]
    values.append({"bytes": None, "path": None})
    columns = {"image": pa.array(values, kind), "label": pa.array(range(8)), "fine": ["x"] * 8}
    pq.write_table(pa.table(columns), tmp_path / "in.parquet", row_group_size=3)
    go([tmp_path / "in.parquet"], tmp_path / "out", rows_per_shard=5)
    found = rows(tmp_path / "out")
    assert [row["key"] for row in found] == [
        "in.parquet/0", "1.png", "in.parquet/2", "3.png", "in.parquet/4", "5.png",
        "in.parquet/6", "in.parquet/7",
    ]  # fmt: skip
    assert [row["label"] for row in found] == list("01234567")
    assert found[7]["error"] == "cannot read: no image in this row"
    for number in range(7):
        expected = codec.compress(io.BytesIO(image(number))).tokens.tolist()
        assert found[number]["tokens"] == expected
    go([tmp_path / "in.parquet"], tmp_path / "fine.parquet", label="fine", limit=4)
    assert [row["label"] for row in rows(tmp_path / "fine.parquet")] == ["x"] * 4
    with pytest.raises(
        DatasetError, match="has no column coarse; its columns are image, label, fine"
    ):
        go([tmp_path / "in.parquet"], tmp_path / "x.parquet", label="coarse")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "none.parquet")
    with pytest.raises(DatasetError, match="no column that clearly holds images"):
        go([tmp_path / "none.parquet"], tmp_path / "x.parquet")
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    with pytest.raises(DatasetError, match=r"junk\.parquet: cannot read as Parquet"):
        go([tmp_path / "junk.parquet"], tmp_path / "x.parquet")


def test_hostile_parquet_inputs(tmp_path, monkeypatch):
    photo = image(0)
    read = []
    batches = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda self, size, *rest: read.append(size) or batches(self, size, *rest),
    )
    # Cells of 3 MB of which the file stores few bytes, and then images of 3 MB as they are.
    noise = np.random.default_rng(0).bytes(3 << 20)
    for name, cell in (("bomb", photo + bytes(3 << 20)), ("large", photo + noise)):
        table = pa.table({"image": pa.array([cell] * 40 if name == "bomb" else [cell] * 30)})
        pq.write_table(
            table, tmp_path / f"{name}.parquet", compression="zstd", use_dictionary=False
        )
    # Neither a dot in its name nor being a text hides a column.
    bomb = pq.read_table(tmp_path / "bomb.parquet")
    pq.write_table(
        bomb.rename_columns(["my.jpg"]),
        tmp_path / "dot.parquet",
        compression="zstd",
        use_dictionary=False,
    )
    texts = pa.table({"image": [photo], "caption": ["a" * (100 << 20)]})
    pq.write_table(texts, tmp_path / "text.parquet", compression="zstd")
    for name, columns in (("dot", []), ("text", ["caption"])):
        go([tmp_path / f"{name}.parquet"], tmp_path / name, columns=columns)
        assert {"expand" in row["error"] for row in rows(tmp_path / name)} == {True}
    many = pa.table({"image": pa.nulls(2_000_000, pa.binary())})
    pq.write_table(many, tmp_path / "many.parquet")
    with pytest.raises(DatasetError, match="claims 2,000,000 rows in "):
        go([tmp_path / "many.parquet"], tmp_path / "many")
    go([tmp_path / "bomb.parquet"], tmp_path / "bomb")
    assert {"expand" in row["error"] for row in rows(tmp_path / "bomb")} == {True}
    assert not read
    go([tmp_path / "large.parquet"], tmp_path / "large")
    assert {row["status"] for row in rows(tmp_path / "large")} == {"ok"}
    assert read == [21]
    with pytest.raises(DatasetError, match="is a token dataset"):
        go([tmp_path / "large"], tmp_path / "x.parquet")
    two = pa.Table.from_arrays([pa.array([photo]), pa.array([photo])], ["image", "image"])
    pq.write_table(two, tmp_path / "two.parquet")
    with pytest.raises(DatasetError, match=r"two\.parquet: "):
        go([tmp_path / "two.parquet"], tmp_path / "x.parquet")
    # A bit of a column's name that makes it no UTF-8.
    pq.write_table(pa.table({"image": [photo], "name": ["x"]}), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data.replace(b"name", b"n\xe1me"))
    with pytest.raises(DatasetError, match=r"a\.parquet: "):
        go([tmp_path / "a.parquet"], tmp_path / "x.parquet")


def test_urls(many, tmp_path):
    go([f"file://{many}"], tmp_path / "a.parquet", limit=20)
    go([many], tmp_path / "b.parquet", limit=20)
    found = [rows(tmp_path / name) for name in ("a.parquet", "b.parquet")]
    first = f"{many}/cat/0000.png"
    assert [rows[0]["source"] for rows in found] == [f"file://{first}", first]
    for row in (*found[0], *found[1]):
        del row["source"]
    assert found[0] == found[1]
    with open_input(f"file://{many}/cat/0000.png") as file:
        assert file.read() == (many / "cat" / "0000.png").read_bytes()
