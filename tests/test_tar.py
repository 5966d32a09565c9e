"""Tar archives: damage never loses an image silently, and hostile headers take no memory."""

import bz2
import gzip
import io
import lzma
import os
import random
import tarfile
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tokcodec.inputs.listing import list_inputs
from tokcodec.io.tar import members

TRIES = int(os.environ.get("TAR_TRIES", "100"))  # of each kind of damage
COMPRESS = {"tar": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
KINDS = ["header", "block", "cut", "behind", "twice"]
KINDS += [f"{how} {suffix}" for suffix in ("gz", "bz2", "xz") for how in ("flip", "cut", "behind")]
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def image(number):
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (7 * number, 99, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def pack(entries):
    """An archive of pairs of a name and bytes; where the name is None, the bytes are headers."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in entries:
            if name is None:
                archive.fileobj.write(data)
                archive.offset += len(data)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def header(name, size, kind=b"0", fields=()):
    """One block with a right checksum. ``fields`` are pairs of an offset and bytes."""
    block = bytearray(512)
    for start, data in ((0, name), (124, size), (156, kind), (257, b"ustar\x0000"), *fields):
        block[start : start + len(data)] = data
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def extended(content, kind=b"x"):
    """A pax header or a long name."""
    return header(b"x", b"%011o" % len(content), kind) + content + bytes(-len(content) % 512)


def record(keyword, value):
    rest = f" {keyword}={value}\n".encode()
    size = next(n for n in range(len(rest), len(rest) + 20) if n == len(str(n)) + len(rest))
    return str(size).encode() + rest


def read_all(path, **options):
    """Keys, labels, and the bytes or the error of each record."""
    found = []
    for batch in list_inputs([str(path)], **options):
        for entry in batch.records():
            try:
                found.append((entry.key, entry.label, entry.read()))
            except OSError as error:
                found.append((entry.key, entry.label, error))
    return found


@pytest.mark.parametrize("suffix", COMPRESS)
def test_the_sizes_of_records_are_those_of_their_tar(suffix, tmp_path):
    noise = random.Random(0)
    entries = [(f"{number:02}.png", noise.randbytes(100_000)) for number in range(20)]
    path = tmp_path / f"a.{'tar' if suffix == 'tar' else 'tar.gz'}"
    path.write_bytes(COMPRESS[suffix](pack(entries)))
    (batch,) = list_inputs([str(path)])
    sizes = [entry.size for entry in batch.records()]
    assert sum(sizes) == batch.source_bytes == path.stat().st_size
    assert len(sizes) == 20
    if suffix in ("tar", "gz"):
        assert abs(sum(sizes[:10]) - path.stat().st_size / 2) < 500_000


def failed(found):
    errors = {key: data for key, _, data in found if isinstance(data, OSError)}
    assert all(len(str(error).splitlines()) == 1 for error in errors.values())
    return list(errors)


@pytest.fixture(scope="module")
def whole():
    """21 small images: two records with a label, one with a long name."""
    entries = [(f"dir/{number:02}.png", image(number)) for number in range(20)]
    entries[2:2] = [("dir/01.cls", b"5"), ("dir/01.json", b"{}")]
    entries[9:9] = [("long/" + "x" * 120 + ".png", image(99))]
    return pack(entries)


def header_offsets(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [member.offset for member in archive]


def flip(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def compress_in_two(suffix, whole):
    """Two compressed streams, one after the other."""
    half = 10240 * (len(whole) // 20480)
    return COMPRESS[suffix](whole[:half]) + COMPRESS[suffix](whole[half:])


def damage(kind, whole, draw):
    if kind == "header":
        return flip(whole, 8 * draw.choice(header_offsets(whole)) + draw.randrange(8 * 512))
    if kind == "block":
        return whole[: 512 * draw.randrange(len(whole) // 512)]
    if kind == "twice":
        return whole + whole
    how, _, suffix = kind.partition(" ")
    packed = compress_in_two(suffix, whole) if suffix else whole
    if how == "flip":
        return flip(packed, draw.randrange(8 * len(packed)))
    if how == "cut":
        return packed[: draw.randrange(len(packed))]
    zeros = bytes(draw.choice([0, 512, 10240])) if not suffix else b""
    return packed + zeros + draw.randbytes(draw.choice([0, 3, 20, 2000])) + b"\1"


@pytest.mark.parametrize("kind", KINDS)
def test_damage_loses_nothing_silently(whole, tmp_path, kind):
    """The images before the damage are read; then one error names the archive."""
    path = tmp_path / "a.tar"
    path.write_bytes(whole)
    expected = read_all(path)
    assert len(expected) == 21
    assert not failed(expected)
    draw = random.Random(kind)
    for _ in range(TRIES):
        path.write_bytes(damage(kind, whole, draw))
        found = read_all(path)
        if found == expected:  # as where a bit that nobody reads was flipped
            assert kind != "twice"
            assert not kind.startswith("behind")
            continue
        assert found[-1][0] == "a.tar"
        assert failed(found)[-1] == "a.tar"
        if not kind.startswith("flip"):  # compressed bytes have their checksum behind them
            images = [data for _, _, data in found[:-1]]
            assert images == [data for _, _, data in expected][: len(images)]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_or_not(whole, tmp_path, suffix):
    path = tmp_path / "a.tar"
    path.write_bytes(whole)
    expected = read_all(path)
    packed = COMPRESS[suffix](whole)
    for data in (packed, compress_in_two(suffix, whole), packed + bytes(512)):
        path.write_bytes(data)
        assert read_all(path) == expected


def test_good_members_before_the_damage_are_read(whole, tmp_path):
    path = tmp_path / "a.tar"
    second = header_offsets(whole)[1]
    end = len(whole.rstrip(b"\0")) + 511 & -512
    for damaged, count in (
        (b"", 0),
        (b"no tar" * 1000, 0),
        (flip(whole, 8 * second), 1),
        (whole[:second], 1),
        (whole[: second + 9], 1),
        (whole[: second + 612], 1),
        (whole[: end + 512], 21),
        (whole + whole, 21),
        (gzip.compress(whole)[:-1], 21),
    ):
        path.write_bytes(damaged)
        found = read_all(path)
        assert failed(found) == ["a.tar"]
        assert len(found) - 1 == count


NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=140
).filter(lambda name: name not in (".", ".."))
TYPES = [tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE]
TYPES += [tarfile.DIRTYPE, tarfile.FIFOTYPE]
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
ENTRIES = st.lists(st.tuples(PATHS, st.binary(max_size=1100), st.sampled_from(TYPES)), max_size=5)


@settings(max_examples=100)
@given(ENTRIES, st.sampled_from(FORMATS))
def test_the_same_members_as_tarfile(entries, kind):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=kind) as archive:
        for name, data, type_ in entries:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = type_, "ü" * 70 if kind != tarfile.USTAR_FORMAT else "a"
            member.size = len(data) if member.isreg() else 0
            try:
                archive.addfile(member, io.BytesIO(data))
            except ValueError:
                assert kind == tarfile.USTAR_FORMAT  # which has no room for long names
    packed.seek(0)
    with tarfile.open(fileobj=packed) as archive:
        expected = [
            (member.name, archive.extractfile(member).read() if member.isreg() else None)
            for member in archive
            if not member.isdir()
        ]
    packed.seek(0)
    assert [(m.name, None if m.problem else m.read()) for m in members(packed)] == expected


DATA = image(0)
OCTAL = b"%011o" % len(DATA)
PLAIN = header(b"c.png", OCTAL)
OTHER = header(b"d.png", OCTAL)


def read_between(path, blocks):
    """Reads an archive of b.png, an entry of these headers and the bytes of an image, and z.png."""
    body = DATA + bytes(-len(DATA) % 512)
    path.write_bytes(pack([("b.png", DATA), (None, blocks + body), ("z.png", DATA)]))
    return read_all(path)


@pytest.mark.parametrize(
    "blocks",
    [
        header(b"c.png", b"\x80" + len(DATA).to_bytes(11, "big")),
        header(b"c.png", OCTAL.lstrip(b"0").rjust(11) + b" "),
        header(b"c.png", OCTAL, fields=[(257, b"ustar  \0"), (345, b"14717042312")]),  # GNU's times
        extended(record("path", "c.png")) + OTHER,
        extended(record("size", len(DATA)) + record("mtime", "x")) + header(b"c.png", b""),
        extended(record("comment", "x"), b"g") + PLAIN,
        extended(b"c.png\0", b"L") + OTHER,
        extended(b"target", b"K") + PLAIN,
    ],
)
def test_headers_of_every_kind(tmp_path, blocks):
    found = read_between(tmp_path / "a.tar", blocks)
    assert found == [("b", None, DATA), ("c", None, DATA), ("z", None, DATA)]


@pytest.mark.parametrize(
    "blocks",
    [
        header(b"c.png", b"\xff" * 12),
        header(b"c.png", b"-5"),
        header(b"c.png", b"89"),
        *(extended(record("size", size)) + PLAIN for size in ("x", "-1", "9" * 5000)),
        *(
            extended(r) + PLAIN
            for r in (b"12 path=x", b"0 path=x\n", b"99 path=x\n", b"9 path:x\n")
        ),
        *(extended(bytes(2**17), kind) + PLAIN for kind in (b"L", b"K", b"x", b"g")),
        header(b"x", b"77777777777", b"x"),
        header(b"c.png", b"\x80" + b"\xff" * 11),
    ],
)
def test_wrong_headers_are_errors(tmp_path, blocks):
    found = read_between(tmp_path / "a.tar", blocks)
    assert found[0] == ("b", None, DATA)
    assert failed(found)[-1] == "a.tar"


def test_one_member_fails_and_the_rest_is_read(tmp_path):
    path = tmp_path / "a.tar"
    size, many = b"%011o" % 512, b"%011o" % 2**33
    gnu = header(b"gnu.png", size, b"S", [(482, b"\1"), (483, many)])
    more_map = bytes(504) + b"\1" + bytes(7)
    records = record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0")
    records += record("GNU.sparse.name", "pax.png") + record("GNU.sparse.realsize", 2**40)
    entries = [
        ("a.png", DATA),
        (None, gnu + more_map + bytes(1024)),
        (None, extended(records) + header(b"GNUSparseFile.0/pax.png", size) + bytes(512)),
        (None, header(b"link.png", b"", b"2")),
        ("large.png", bytes(3000)),
        ("large.cls", b"5"),
        ("pair.1.png", bytes(1500)),
        ("pair.2.png", bytes(1500)),
        ("text.png", DATA),
        ("text.txt", b"x" * (2**24 + 1)),
        ("text.cls", b"6"),
        ("last.png", DATA),
    ]
    path.write_bytes(pack(entries))
    found = read_all(path, max_bytes=2000)
    assert failed(found) == ["gnu", "pax", "link", "large", "pair.2.png", "text.txt"]
    assert [(key, label) for key, label, data in found if data == DATA] == [
        ("a", None), ("text", "6"), ("last", None)
    ]  # fmt: skip
    assert [label for key, label, _ in found if key == "large"] == ["5"]


@pytest.mark.parametrize("kind", ["gzip", "sparse", "map", "names", "records", "dictionary"])
def test_hostile_archives_take_no_memory(tmp_path, kind):
    path, huge = tmp_path / "a.tar", 2**26
    if kind == "sparse":
        size = b"%011o" % 2**34
        member = header(b"a.png", bytes(11), b"S", [(386, size), (483, size)])
        path.write_bytes(member + bytes(1024))
    elif kind == "records":  # of few bytes, whose keywords have many
        path.write_bytes(extended(b"2 " * 2**14 + b"2=x") + header(b"a.png", b""))
    elif kind == "dictionary":
        packed = bytearray(lzma.compress(pack([("a.png", b"")])))
        end = 12 + 4 * packed[12]  # of the header of a block without its checksum
        packed[packed.index(b"\x21\x01", 12) + 2] = 38  # 2 GiB
        packed[end : end + 4] = zlib.crc32(packed[12:end]).to_bytes(4, "little")
        path.write_bytes(packed)
    else:
        type_ = {"gzip": b"0", "names": b"L", "map": b"S"}[kind]
        block = b"1".rjust(12) * 42 + b"\1" + bytes(7) if kind == "map" else bytes(512)
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.write(header(b"a.png", b"%011o" % huge, type_, [(482, b"\1")]))
            for _ in range(huge // 2**20):
                file.write(block * 2**11)
            file.write(bytes(1024))
        assert path.stat().st_size < 2**22
    tracemalloc.start()
    assert failed(read_all(path, max_bytes=2**20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22
