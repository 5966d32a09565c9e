"""Tars: nothing lost in silence, whatever became of their bytes; no memory at a header's word."""

import bz2
import functools
import gzip
import io
import lzma
import os
import random
import tarfile
import tracemalloc
import zlib

import pytest
from conftest import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tokcodec.config import PreprocessingConfig
from tokcodec.inputs.listing import list_inputs
from tokcodec.io.tar import members
from tokcodec.train.data import load_images

TRIES = int(os.environ.get("TAR_TRIES", "100"))  # of each kind of damage
PACK = {"tar": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
REST = "the rest of the tar: "


def image(number):
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (7 * number, 99, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def pack(entries, kind=tarfile.PAX_FORMAT):
    """A tar of names and bytes; of headers as they are where there is no name."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=kind) as tar:
        for name, data in entries:
            if name is None:
                tar.fileobj.write(data)
                tar.offset += len(data)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def header(name, size, kind=b"0", **fields):
    """One block, whose checksum is right; ``fields`` are bytes at places of their own."""
    block = bytearray(512)
    block[: len(name)] = name
    block[124 : 124 + len(size)] = size
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    for place, data in fields.items():
        block[int(place[1:]) : int(place[1:]) + len(data)] = data
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(records, kind=b"x"):
    padded = records + bytes(-len(records) % 512)
    return header(b"pax", b"%011o" % len(records), kind) + padded


def record(keyword, value):
    rest = f" {keyword}={value}\n".encode()
    size = next(n for n in range(len(rest), len(rest) + 20) if n == len(str(n)) + len(rest))
    return str(size).encode() + rest


def rows(path, **options):
    """Key, label, and the bytes, or the reason why there are none."""
    found = []
    for batch in list_inputs([str(path)], **options):
        for entry in batch.records():
            try:
                found.append((entry.key, entry.label, entry.read()))
            except OSError as error:
                found.append((entry.key, entry.label, error.strerror))
    return found


def failed(found):
    return [(key, reason) for key, _, reason in found if isinstance(reason, str)]


@pytest.fixture(scope="module")
def whole():
    """20 small images, two with labels, one with a long name."""
    entries = [(f"dir/{number:02}.png", image(number)) for number in range(20)]
    entries[2:2] = [("dir/01.cls", b"5"), ("dir/01.json", b"{}")]
    entries[9:9] = [("long/" + "x" * 120 + ".png", image(99))]
    return pack(entries)


def headers_of(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [member.offset for member in tar]


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@functools.cache
def in_two(suffix, whole):
    """Two compressed streams, one behind the other."""
    half = 10240 * (len(whole) // 20480)
    return PACK[suffix](whole[:half]) + PACK[suffix](whole[half:])


def damage(kind, whole, draw):
    """Damaged bytes, and the kind of file that they are."""
    if kind == "header":
        place = draw.choice(headers_of(whole))
        return flipped(whole, 8 * place + draw.randrange(8 * 512))
    if kind == "block":
        return whole[: 512 * draw.randrange(len(whole) // 512)]
    if kind == "cut":
        return whole[: draw.randrange(len(whole))]
    if kind == "behind":
        extra = bytes(draw.choice([0, 512, 10240])) + draw.randbytes(draw.choice([0, 100, 2000]))
        return whole + extra + b"\1"
    if kind == "twice":
        return whole + whole
    how, suffix = kind.split()
    packed = in_two(suffix, whole)
    if how == "flip":
        return flipped(packed, draw.randrange(8 * len(packed)))
    if how == "cut":
        return packed[: draw.randrange(len(packed))]
    return packed + draw.randbytes(draw.choice([0, 3, 20, 2000])) + b"\1"


KINDS = ["header", "block", "cut", "behind", "twice"]
KINDS += [f"{how} {suffix}" for suffix in ("gz", "bz2", "xz") for how in ("flip", "cut", "behind")]


def lost_in_silence(kind, whole, folder, tries, seed=0):
    """How many times some of the tar was gone, or other bytes, or left, and no row said so."""
    path = folder / ("damaged.tar.gz" if kind.endswith("gz") else "damaged.tar")
    path.write_bytes(whole)
    expected = rows(path)
    assert len(expected) == 21
    assert not failed(expected)
    draw = random.Random(f"{kind} {seed}")
    lost = 0
    for _ in range(tries):
        path.write_bytes(damage(kind, whole, draw))
        found = rows(path)
        is_whole = found == expected and kind != "twice" and not kind.startswith("behind")
        lost += not (is_whole or failed(found))
    return lost


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost_in_silence(whole, tmp_path, kind):
    assert lost_in_silence(kind, whole, tmp_path, TRIES) == 0


@pytest.mark.parametrize("suffix", PACK)
def test_compressed_or_not(whole, tmp_path, suffix):
    path = tmp_path / "a.tar"
    path.write_bytes(whole)
    expected = rows(path)
    packed = PACK[suffix](whole)
    for data in (packed, in_two(suffix, whole), packed + bytes(512)):
        path.write_bytes(data)
        assert rows(path) == expected


def test_what_is_wrong_is_said(whole, tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(whole)
    expected = rows(path)
    second = headers_of(whole)[1]
    data = second + 512 + 100
    last = len(whole.rstrip(b"\0"))
    end = last + -last % 512
    for damaged, count, reason in (
        (b"", 0, "no end marker (two blocks of zeros) before byte 0"),
        (b"no tar" * 1000, 0, "the header at byte 0 is damaged or cut"),
        (flipped(whole, 8 * second), 1, f"the header at byte {second:,} is damaged or cut"),
        (whole[:second], 1, f"no end marker (two blocks of zeros) before byte {second:,}"),
        (whole[: second + 9], 1, f"the header at byte {second:,} is damaged or cut"),
        (whole[:data], 1, f"cut inside a member, at byte {data:,}"),
        (whole[: end + 512], 21, f"no end marker (two blocks of zeros) before byte {end + 512:,}"),
        (whole + whole, 21, "goes on behind its end marker, before byte "),
        (gzip.compress(whole)[:-1], 21, "its gzip stream is cut"),
        (flipped(gzip.compress(whole), -8 * 8), None, "its gzip stream is damaged: "),
    ):
        path.write_bytes(damaged)
        found = rows(path)
        (told,) = failed(found)
        assert told[0] == "a.tar"
        assert told[1].startswith(REST + reason), told
        assert found[:-1] == expected[: len(found) - 1]
        assert len(found) - 1 == count or (count is None and len(found) > 10), told


NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=140
).filter(lambda name: name not in (".", ".."))


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.lists(NAMES, min_size=1, max_size=3).map("/".join),
            st.binary(max_size=1100),
            st.sampled_from([tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.LNKTYPE,
                             tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE]),
        ),
        max_size=5,
    ),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)  # fmt: skip
def test_the_same_members_as_tarfile(entries, kind):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=kind) as tar:
        for name, data, type_ in entries:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = type_, "ü" * 70 if kind != tarfile.USTAR_FORMAT else "a"
            member.size = len(data) if member.isreg() else 0
            try:
                tar.addfile(member, io.BytesIO(data))
            except ValueError:
                assert kind == tarfile.USTAR_FORMAT  # which has no room for long names
    packed.seek(0)
    with tarfile.open(fileobj=packed) as tar:
        expected = [
            (member.name, tar.extractfile(member).read() if member.isreg() else None)
            for member in tar
            if not member.isdir()
        ]
    packed.seek(0)
    found = [(m.name, None if m.problem else m.read()) for m in members(packed)]
    assert found == expected


def test_numbers_and_records(tmp_path):
    """What a header may say beside plain octal digits, and what it may not."""
    path, data = tmp_path / "a.tar", image(0)
    body = data + bytes(-len(data) % 512)
    octal = b"%011o" % len(data)
    good = ("b", None, data)

    def of(*blocks):
        path.write_bytes(pack([("b.png", data), (None, b"".join(blocks)), ("z.png", data)]))
        return rows(path)

    whole = [good, ("c", None, data), ("z", None, data)]
    assert of(header(b"c.png", b"\x80" + len(data).to_bytes(11, "big")), body) == whole
    assert of(header(b"c.png", octal.lstrip(b"0").rjust(11) + b" "), body) == whole
    assert of(pax(record("path", "c.png")), header(b"d.png", octal), body) == whole
    sized = pax(record("size", len(data)) + record("mtime", "noon") + record("uid", "x"))
    assert of(sized, header(b"c.png", b""), body) == whole
    assert of(pax(record("comment", "x"), b"g"), header(b"c.png", octal), body) == whole
    long = header(b"././@LongLink", b"%011o" % 6, b"L") + b"c.png\0" + bytes(506)
    assert of(long, header(b"d.png", octal), body) == whole
    times = {"_257": b"ustar  \0", "_345": b"14717042312"}  # GNU's --incremental
    assert of(header(b"c.png", octal, **times), body) == whole
    for wrong in (
        header(b"c.png", b"\xff" * 12),
        header(b"c.png", b"-5"),
        header(b"c.png", b"1_0"),
        header(b"c.png", b"89"),
        *(pax(record("size", size)) + header(b"c.png", octal) for size in ("x", "-1", "9" * 5000)),
        pax(b"12 path=x") + header(b"c.png", octal),
        pax(b"0 path=x\n") + header(b"c.png", octal),
        pax(b"99 path=x\n") + header(b"c.png", octal),
        pax(b"9 path:x\n") + header(b"c.png", octal),
        header(b"././@LongLink", b"%011o" % 2**17, b"L") + bytes(2**17),
        header(b"pax", b"%011o" % 2**17, b"x") + bytes(2**17),
        header(b"pax", b"77777777777", b"x"),
        header(b"././@LongLink", b"77777777777", b"K"),
    ):
        found = of(wrong, body)
        assert found[0] == good
        ((key, reason),) = failed(found)
        assert key == "a.tar"
        assert reason.startswith(REST), reason
    path.write_bytes(long + bytes(1024))
    ((key, reason),) = failed(rows(path))
    assert reason == REST + "a long name or pax header before byte 1,536 has no member"
    # A size beyond the file is of the member, and of the rest of the tar.
    found = of(header(b"c.png", b"\x80" + b"\xff" * 11), body)
    assert [key for key, _ in failed(found)] == ["c", "a.tar"]


def test_one_member_fails_and_the_rest_is_read(tmp_path):
    path, data = tmp_path / "a.tar", image(0)
    many = b"%011o" % (2**33)
    gnu = header(b"sparse.png", b"%011o" % 512, b"S", _482=b"\1", _483=many)
    more = bytes(504) + b"\1" + bytes(7)
    sparse = gnu + more + bytes(512) + bytes(512)
    gap = record("GNU.sparse.major", "1") + record("GNU.sparse.name", "gap.png")
    gap += record("GNU.sparse.realsize", 2**40)
    entries = [
        ("a.png", data),
        (None, sparse),
        (None, pax(gap) + header(b"GNUSparseFile.0/gap.png", b"%011o" % 512) + bytes(512)),
        ("large.png", bytes(3000)),
        ("large.cls", b"5"),
        ("pair.1.png", bytes(1500)),
        ("pair.2.png", bytes(1500)),
        ("text.png", data),
        ("text.txt", b"x" * (2**24 + 1)),
        ("text.cls", b"6"),
        ("last.png", data),
    ]
    path.write_bytes(pack(entries))
    found = rows(path, max_bytes=2000)
    assert [(key, label) for key, label, content in found if content == data] == [
        ("a", None), ("text", "6"), ("last", None)
    ]  # fmt: skip
    limit = "more than the limit of 2,000 (--max-image-bytes)"
    assert failed(found) == [
        ("sparse", "a sparse file, which is not unpacked"),
        ("gap", "a sparse file, which is not unpacked"),
        ("large", f"3,000 bytes, {limit}"),
        ("pair.2.png", f"with the images of its key before it 3,000 bytes, {limit}"),
        ("text.txt", "16,777,217 bytes, more than the limit of 16,777,216"),
    ]
    assert [label for key, label, _ in found if key == "large"] == ["5"]
    # Images of other kinds of sources have the same limit.
    (tmp_path / "b.png").write_bytes(bytes(3000))
    assert failed(rows(tmp_path / "b.png", max_bytes=2000)) == [("b.png", f"3,000 bytes, {limit}")]


@pytest.mark.parametrize("kind", ["gzip", "sparse", "names", "dictionary"])
def test_a_bomb_takes_no_memory(tmp_path, kind):
    path = tmp_path / "bomb.tar"
    huge = 2**28
    if kind == "sparse":
        whole = 2**34
        member = header(b"a.png", bytes(11), b"S", _386=b"%011o" % whole, _483=b"%011o" % whole)
        path.write_bytes(member + bytes(1024))
    elif kind == "dictionary":
        packed = bytearray(lzma.compress(pack([("a.png", b"")])))
        end = 12 + 4 * packed[12]  # of the header of a block, less its checksum
        packed[packed.index(b"\x21\x01", 12) + 2] = 38  # 2 GiB
        packed[end : end + 4] = zlib.crc32(packed[12:end]).to_bytes(4, "little")
        path.write_bytes(packed)
    else:
        opening = header(b"a.png", b"%011o" % huge, b"0" if kind == "gzip" else b"L")
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.write(opening)
            for _ in range(huge // 2**20):
                file.write(bytes(2**20))
            file.write(bytes(1024))
        assert path.stat().st_size < 2**21
    tracemalloc.start()
    assert len(failed(rows(path, max_bytes=2**20))) == 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22


def test_at_the_command_line(run, whole, tmp_path):
    (tmp_path / "cut.tar").write_bytes(whole[: headers_of(whole)[5]])
    (tmp_path / "large.tar").write_bytes(pack([("a.png", image(0)), ("b.png", bytes(9999))]))
    tiny = ["--weights", GOLDEN / "patch.safetensors", "-o", "out", "--max-image-bytes", 9000]
    said = run("encode", "cut.tar", "large.tar", *tiny, status=3, cwd=tmp_path).stderr.decode()
    assert f"cut.tar: cannot read the image: {REST}no end marker" in said
    assert "large.tar/b.png: cannot read the image: 9,999 bytes, more than the limit of" in said
    assert said.splitlines()[-1].endswith(", 2 failed")


def test_training_goes_on_without_it(whole, tmp_path):
    (tmp_path / "a.tar").write_bytes(gzip.compress(whole)[:-20])
    (tmp_path / "b.tar").write_bytes(whole)
    found = load_images(
        [str(tmp_path / "a.tar"), str(tmp_path / "b.tar")],
        frozenset({"b.tar/dir/01.png"}),
        PreprocessingConfig(image_size=32),
        tmp_path / "run",
        1,
        lambda _: None,
    )
    assert len(found.held_out) == 1
    (skipped,) = found.skipped
    assert skipped == f"a.tar: {REST}its gzip stream is cut"
