import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA, GOLDEN, placed, read_fitted
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, JpegImagePlugin

from tokcodec.config import PreprocessingConfig
from tokcodec.config.geometry import FITS
from tokcodec.errors import ImageError, OutputError
from tokcodec.image import (
    Canvas,
    _to_srgb,
    check_output,
    save,
    to_image,
    to_rgb,
)
from tokcodec.io.imagefile import _FORMATS, extensions

SMALL = PreprocessingConfig(image_size=64)
REDUCED = PreprocessingConfig(image_size=64, reduced_jpeg=True)
DIRECT = PreprocessingConfig(image_size=64, pixel_scale=2, reduced_jpeg=True, resize="direct")
COFFEE = DATA / "coffee.jpg"  # 600x400


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    buffer.seek(0)
    return buffer


def one_pixel(image):
    return to_rgb(image).getpixel((0, 0))


# The whole path, pinned: a non-square JPEG to the pixels that reach a model. The reduced one
# differs only where Pillow's draft may be used. (Tiles: see test_tiles_lose_nothing.)
@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize(
    ("name", "config"), [("plain", SMALL), ("reduced", REDUCED), ("direct", DIRECT)]
)
def test_golden_pixels(fit, name, config):
    expected = np.load(GOLDEN / "coffee-pixels.npz")[f"{name}_{fit}"]
    tiles = read_fitted(COFFEE, config, fit)
    assert (tiles.width, tiles.height) == (600, 400)
    assert tiles.pixels.dtype == np.uint8
    assert np.array_equal(tiles.pixels, expected)


# libjpeg-turbo takes what instructions a processor has; Pillow's resizing has no such ways.
@pytest.mark.parametrize("instructions", ["NONE", "SSE2"])
def test_golden_pixels_on_other_processors(instructions):
    program = (
        "import numpy as np, test_image as t\n"
        "golden = np.load(t.GOLDEN / 'coffee-pixels.npz')\n"
        "for name, expected in golden.items():\n"
        "    kind, fit = name.split('_')\n"
        "    config = {'plain': t.SMALL, 'reduced': t.REDUCED, 'direct': t.DIRECT}[kind]\n"
        "    assert np.array_equal(t.read_fitted(t.COFFEE, config, fit).pixels, expected), name"
    )
    subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, f"JSIMD_FORCE{instructions}": "1"},
        cwd=Path(__file__).parent,
        check=True,
    )


def test_reduction_never_goes_below_what_is_needed(monkeypatch):
    opened = []
    original = JpegImagePlugin.JpegImageFile.draft

    def spy(image, mode, size):
        result = original(image, mode, size)
        opened.append(image.size)
        return result

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", spy)
    photo = Image.open(COFFEE)
    for width, height, fit, reduced, direct in [
        (1024, 1024, "stretch", (128, 128), (128, 128)),
        (1023, 1024, "stretch", (256, 256), (128, 128)),
        (2048, 512, "stretch", (512, 128), (256, 64)),
        (1024, 512, "crop", (256, 128), (128, 64)),
        (1024, 512, "pad", (128, 64), (128, 64)),
        (128, 64, "crop", (128, 64), (64, 32)),
        (127, 63, "crop", (127, 63), (127, 63)),
        (100, 100, "stretch", (100, 100), (50, 50)),
    ]:
        file = encoded(photo.resize((width, height)), "JPEG")
        for config, size in ((REDUCED, reduced), (DIRECT, direct)):
            read_fitted(file, config, fit)
            assert opened.pop() == size, (width, height, fit)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("config", [SMALL, REDUCED, DIRECT])
def test_exif_orientation(orientation, kind, config):
    # Four coloured quarters: red, green above blue, white; stored so that turning restores them.
    upright = Image.new("RGB", (640, 320), "white")
    upright.paste("red", (0, 0, 320, 160))
    upright.paste("lime", (320, 0, 640, 160))
    upright.paste("blue", (0, 160, 320, 320))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    tiles = read_fitted(encoded(stored, kind, exif=exif), config, "stretch")
    assert (tiles.width, tiles.height) == (640, 320)
    pixels = tiles.pixels[0].astype(int)
    near, far = config.read_size // 4, 3 * config.read_size // 4
    for at, colour in {
        (near, near): (255, 0, 0),
        (near, far): (0, 255, 0),
        (far, near): (0, 0, 255),
        (far, far): (255, 255, 255),
    }.items():
        assert np.abs(pixels[at] - colour).max() <= 3, (at, colour)


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("1", 255, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("LA", (100, 0), (255, 255, 255)),
        ("RGBA", (200, 0, 0, 255), (200, 0, 0)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 257 * 100, (100, 100, 100)),
        ("YCbCr", (77, 128, 128), (77, 77, 77)),
    ],
)
def test_modes(mode, value, expected):
    assert one_pixel(Image.new(mode, (2, 2), value)) == expected


def tiff(values, bits, kind):
    """An uncompressed grey TIFF with these pixels, and SampleFormat ``kind``."""
    height, width = values.shape
    data = values.tobytes()
    if bits == 12:
        pairs = values.reshape(-1, 2).astype(int)
        whole = (pairs[:, 0] << 12 | pairs[:, 1]).astype(">u4")
        data = whole.view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    tags |= {279: len(data), 339: kind}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    return start + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def ppm(values):
    return b"P5 4 4 65535\n" + values.astype(">u2").tobytes()


@pytest.mark.parametrize(
    ("make", "white"),
    [
        (lambda values: encoded(Image.fromarray(values), transparency=9).getvalue(), 65535),
        (ppm, 65535),
        (lambda values: tiff(values, 16, 1), 65535),
        (lambda values: tiff(values, 12, 1), 4095),
    ],
    ids=["PNG", "PPM", "TIFF", "TIFF of 12 bits"],
)
def test_numbers_of_16_bits_are_scaled(make, white):
    for level in (0, 1, 200, 255):
        values = np.full((4, 4), round(white * level / 255), np.uint16)
        assert (read_fitted(make(values), SMALL, "stretch").pixels == level).all()


@pytest.mark.parametrize(
    "data",
    [
        b"Pf\n4 4\n-1.0\n" + np.ones(16, "<f4").tobytes(),
        tiff(np.ones((4, 4), "<f4"), 32, 3),
        tiff(np.ones((4, 4), "<u4"), 32, 1),
        tiff(np.ones((4, 4), "<i4"), 32, 2),
        tiff(np.ones((4, 4), "<i2"), 16, 2),
    ],
    ids=["PFM", "float TIFF", "32-bit TIFF", "signed 32-bit TIFF", "signed TIFF"],
)
def test_pixels_without_a_range_are_refused(data, tmp_path):
    (tmp_path / "a.img").write_bytes(data)
    for config in (SMALL, DIRECT):
        with pytest.raises(ImageError, match=r"a\.img: .* no defined range; convert") as caught:
            read_fitted(tmp_path / "a.img", config, "stretch")
        assert "\n" not in str(caught.value)


def test_palette_with_transparency():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert (read_fitted(encoded(image), SMALL, "pad").pixels[0] == (10, 20, 30)).all()
    clear = encoded(image, transparency=1)
    assert (read_fitted(clear, SMALL, "pad", (5, 6, 7)).pixels[0] == (5, 6, 7)).all()


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    file = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (read_fitted(file, SMALL, "stretch").pixels[0] == (255, 0, 0)).all()


def profile_with_red_and_green_swapped():
    """A minimal ICC v2 matrix profile: sRGB's primaries, the first two in each other's place."""

    def number(value):
        return struct.pack(">i", round(value * 65536))

    primaries = {
        b"rXYZ": (0.3851, 0.7169, 0.0971),
        b"gXYZ": (0.4361, 0.2225, 0.0139),
        b"bXYZ": (0.1431, 0.0606, 0.7141),
        b"wtpt": (0.9642, 1.0, 0.8249),
    }
    tags = {name: b"XYZ \0\0\0\0" + b"".join(map(number, v)) for name, v in primaries.items()}
    gamma = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma)
    start = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    head = struct.pack(
        ">I4xI4s4s4s12x4s", start + len(body), 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"acsp"
    )
    illuminant = b"".join(map(number, primaries[b"wtpt"]))
    return (head.ljust(68, b"\0") + illuminant).ljust(128, b"\0") + table + body


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("config", [SMALL, DIRECT])
def test_icc_profile_becomes_srgb(config):
    image = Image.new("RGB", (4, 4), (200, 60, 30))
    file = encoded(image, icc_profile=profile_with_red_and_green_swapped())
    shown = read_fitted(file, config, "stretch").pixels[0, 0, 0].astype(int)
    assert np.abs(shown - (60, 200, 30)).max() <= 6  # a plain 2.2 is not quite sRGB's curve
    for profile in (SRGB, b"broken"):
        file = encoded(image, icc_profile=profile)
        assert tuple(read_fitted(file, config, "stretch").pixels[0, 0, 0]) == (200, 60, 30)


def test_a_transform_is_left_out_only_where_it_changes_no_colour():
    # All levels of each channel alone, and of all three in every mixture of every third level.
    levels = np.arange(0, 256, 3, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 1, 3)
    ramps = np.zeros((3, 256, 3), np.uint8)
    for channel in range(3):
        ramps[channel, :, channel] = np.arange(256)
    image = Image.fromarray(np.concatenate([colours, ramps.reshape(-1, 1, 3)]))
    target = ImageCms.createProfile("sRGB")
    for profile, changes in ((SRGB, False), (profile_with_red_and_green_swapped(), True)):
        expected = ImageCms.profileToProfile(image, io.BytesIO(profile), target, outputMode="RGB")
        assert (expected.tobytes() != image.tobytes()) == changes
        image.info["icc_profile"] = profile
        assert to_rgb(image).tobytes() == expected.tobytes()
        assert (_to_srgb(profile, "RGB") is not None) == changes


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from(["bicubic", "bilinear", "lanczos", "adm", "chameleon"]),
    st.integers(1, 80),
)
def test_what_is_cut_off_is_not_missed(width, height, resize, side):
    # The same by Pillow's plainest calls: all of it resized, then cut.
    image = Image.open(COFFEE).convert("RGB").resize((width, height))
    placement = placed("crop", (width, height), side, resize)
    whole = image
    for _ in range(placement.halvings):
        whole = whole.resize((whole.width // 2, whole.height // 2), Image.Resampling.BOX)
    filters = {"chameleon": "LANCZOS", "adm": "BICUBIC"}
    resampling = Image.Resampling[filters.get(resize, resize.upper())]
    left, top = (-offset for offset in placement.offset)
    cut = whole.resize(placement.resized, resampling).crop((left, top, left + side, top + side))
    config = PreprocessingConfig(image_size=side, resize=resize)
    assert np.array_equal(read_fitted(image, config, "crop").pixels[0], np.asarray(cut))


@given(st.sampled_from(FITS), st.integers(1, 300), st.integers(1, 300))
def test_direct_squares_lie_where_exact_ones_do(fit, width, height):
    # A smooth image, so that the way it is resized hardly matters, and a shift would.
    across, down = np.arange(width) * 200 / width, np.arange(height) * 200 / height
    smooth = np.stack(np.broadcast_arrays(across, down[:, None], 90), axis=-1) + 20
    image = Image.fromarray(smooth.astype(np.uint8))
    exact = read_fitted(image, SMALL, fit).pixels
    direct = read_fitted(image, DIRECT, fit).pixels
    n, rows, columns, _ = direct.shape
    means = exact.reshape(n, rows, 2, columns, 2, 3).mean(axis=(2, 4))
    step = 200 / min(width, height)  # beyond the edges, the last pixel of each is repeated
    assert np.abs(direct - means).max() <= 3 + 2 * step


def test_bombs_are_refused_and_can_be_allowed(tmp_path, monkeypatch):
    Image.new("1", (400, 300)).save(tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    with pytest.raises(ImageError, match=r"big\.png: more pixels"):
        read_fitted(tmp_path / "big.png", SMALL, "stretch")
    stretched, tiled = (placed(fit, (400, 300), 64) for fit in ("stretch", "tile"))
    with pytest.raises(ImageError, match="400x300 pixels are more"):
        check_output(stretched, (400, 300))
    check_output(stretched, (40, 30))
    with pytest.raises(ImageError, match="448x320 pixels are more"):  # whatever becomes of them
        check_output(tiled, (40, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_fitted(tmp_path / "big.png", SMALL, "stretch").width == 400
    check_output(tiled, (400, 300))


def test_scans_of_a_progressive_jpeg_are_limited(tmp_path):
    data = encoded(Image.open(COFFEE), "JPEG", progressive=True).getvalue()
    last = data.rindex(b"\xff\xda")
    start, scan = data[:last], data[last:-2]
    # Markers in other segments, and behind the image, are none of its scans.
    comment = b"\xff\xfe" + struct.pack(">H", 402) + b"\xff\xda" * 200
    harmless = data[:2] + comment + start[2:] + scan * 50 + b"\xff\xd9" + b"\xff\xda" * 200
    assert read_fitted(harmless, SMALL, "crop").width == 600
    (tmp_path / "a.jpg").write_bytes(start + scan * 200 + b"\xff\xd9")
    for config in (SMALL, DIRECT):
        with pytest.raises(ImageError, match=r"a\.jpg: 2\d\d scans of a progressive JPEG; save"):
            read_fitted(tmp_path / "a.jpg", config, "crop")


def test_headers_of_ppm_are_limited(tmp_path):
    pixels = bytes(range(16))
    for magic, rest in (
        (b"P5", b"255\n" + pixels),
        (b"P4", b"\xf0" * 4),
        (b"P0CMYK", b"255\n" + pixels * 4),
    ):
        for comments in (b"", b"# short\n" * 1000, b"#" + b"x" * 60_000 + b"\r"):
            file = magic + b" 4" + comments + b" 4 " + rest
            assert read_fitted(io.BytesIO(file), SMALL, "stretch").width == 4
        for comments in (b"#" + b"x" * 70_000 + b"\n", b"#\n" * 40_000, b" " * 70_000):
            (tmp_path / "a.ppm").write_bytes(magic + b" 4#\n" + comments + b" 4 " + rest)
            with pytest.raises(ImageError, match=r"a\.ppm: its header has more than 65536 bytes"):
                read_fitted(tmp_path / "a.ppm", SMALL, "stretch")


def test_transparent_images_take_twice_their_memory(tmp_path):
    Image.new("RGBA", (5000, 5000), (200, 0, 0, 51)).save(tmp_path / "a.png", compress_level=1)
    program = (
        "import resource, sys, test_image as t\n"
        "used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10\n"
        "before = used()\n"
        "pixels = t.read_fitted(sys.argv[1], t.SMALL, 'stretch').pixels\n"
        "assert (pixels == (244, 204, 204)).all()\n"
        "print(used() - before)\n"
    )
    command = [sys.executable, "-c", program, tmp_path / "a.png"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, check=True)
    assert int(done.stdout) < 1.25 * 2 * 4 * 25_000_000 / 2**20  # 4 bytes a pixel, twice


def test_bands_of_a_large_image_are_those_of_a_whole_one(monkeypatch):
    image = Image.open(COFFEE).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.info["icc_profile"] = profile_with_red_and_green_swapped()
    whole = to_rgb(image, (1, 2, 3))
    monkeypatch.setattr("tokcodec.image._BAND", 7000)
    assert to_rgb(image, (1, 2, 3)) == whole


def test_libraries_print_nothing(tmp_path, capfd, run):
    data = bytearray(encoded(Image.open(COFFEE), "TIFF", compression="tiff_lzw").getvalue())
    data[3000:3100] = bytes(100)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.tif: cannot read"):
        read_fitted(tmp_path / "a.tif", SMALL, "stretch")
    assert capfd.readouterr() == ("", "")
    data = bytearray(file_of("ICO"))
    data[6] = data[7] = 17  # not the size of the image in it
    (tmp_path / "b.ico").write_bytes(data)
    done = run(
        "encode",
        tmp_path / "b.ico",
        "-o",
        tmp_path / "b.tok",
        "--weights",
        GOLDEN / "patch.safetensors",
    )
    assert len(done.stderr.splitlines()) == 1


def test_an_edge_too_long_for_the_header(tmp_path):
    Image.new("1", (65536, 1)).save(tmp_path / "long.png")
    with pytest.raises(ImageError, match=r"long\.png: 65536x1 pixels; .* 65535 an edge"):
        read_fitted(tmp_path / "long.png", SMALL, "stretch")


@pytest.mark.parametrize("keep", [0, 3, 30, 300, 3000])
def test_damaged_files(tmp_path, keep):
    path = tmp_path / "a.jpg"
    path.write_bytes(COFFEE.read_bytes()[:keep])
    with pytest.raises(ImageError, match=r"a\.jpg: cannot read the image: ") as caught:
        read_fitted(path, SMALL, "stretch")
    assert "\n" not in str(caught.value)


# What LlamaGen's own centre crop, which is ADM's, makes of the six JPEGs.
def test_adm_pixels_are_adms():
    with np.load(GOLDEN / "torchvision" / "adm_squares.npz") as tiles:
        assert len(tiles) == 12
        for key, expected in tiles.items():
            name, side = key.rsplit("_", 1)
            config = PreprocessingConfig(image_size=int(side), resize="adm")
            read = read_fitted(GOLDEN / "torchvision" / f"{name}.jpg", config, "crop")
            assert np.array_equal(read.pixels[0], expected), key


def test_chameleons_crop():
    # Rounded to the nearest, resized by Lanczos, cut out from the middle, rounded down.
    image = Image.open(COFFEE).convert("RGB").resize((601, 301))
    expected = image.resize((round(64 / 301 * 601), 64), Image.Resampling.LANCZOS)
    left = (expected.width - 64) // 2
    config = SMALL.replace(resize="chameleon")
    pixels = read_fitted(image, config, "crop").pixels[0]
    assert np.array_equal(pixels, np.asarray(expected)[:, left : left + 64])


@given(st.sampled_from(FITS), st.integers(1, 200), st.integers(1, 200))
def test_what_goes_in_comes_out(fit, width, height):
    # An image of one colour survives any fit exactly, in its own size.
    image = Image.new("RGB", (width, height), (12, 200, 99))
    tiles = read_fitted(image, SMALL, fit)
    direct = read_fitted(image, DIRECT, fit).pixels
    assert (direct == (12, 200, 99)).all()
    assert len(direct) == len(tiles.pixels)
    if fit != "native":
        assert tiles.pixels.shape[1:] == (64, 64, 3)
        assert direct.shape[1:] == (32, 32, 3)
    placement = placed(fit, (width, height), 64)
    back = to_image(tiles.pixels, Canvas.of_tiles(placement, placement.output))
    short = min(width, height)
    assert back.size == ((short, short) if fit == "crop" else (width, height))
    assert back.getcolors() == [(back.width * back.height, (12, 200, 99))]


@given(st.integers(1, 150), st.integers(1, 150), st.integers(0, 2**32 - 1))
def test_tiles_lose_nothing(width, height, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    tiles = read_fitted(Image.fromarray(pixels), SMALL, "tile")
    placement = placed("tile", (width, height), 64)
    back = to_image(tiles.pixels, Canvas.of_tiles(placement, placement.output))
    assert np.array_equal(np.asarray(back), pixels)


def test_a_given_image_stays_as_it_is():
    image = Image.open(COFFEE)
    first = read_fitted(image, SMALL, "stretch").pixels
    assert image.size == (600, 400)
    assert np.array_equal(read_fitted(image, SMALL, "stretch").pixels, first)


def test_save(tmp_path):
    image = Image.new("RGB", (3, 2), "red")
    assert save(image, tmp_path / "a.jpg") == (tmp_path / "a.jpg").stat().st_size
    assert Image.open(tmp_path / "a.jpg").format == "JPEG"
    sizes = {}
    for level in (1, 6):
        stream = io.BytesIO()
        sizes[level] = save(Image.open(COFFEE), stream, png_level=level)
        assert np.array_equal(np.asarray(Image.open(stream)), np.asarray(Image.open(COFFEE)))
    assert sizes[6] < sizes[1] == len(encoded(Image.open(COFFEE), compress_type=3).getvalue())
    stream = io.BytesIO()
    save(image, stream, ".webp")
    assert Image.open(stream).format == "WEBP"
    with pytest.raises(ImageError, match=r"a\.xyz: no image can be written"):
        save(image, tmp_path / "a.xyz")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        save(image, tmp_path / "file" / "a.png")


def photoshop():
    """A PSD of 16x16 pixels, uncompressed, which Pillow cannot write."""
    head = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, 16, 16, 8, 3)
    planes = b"".join(bytes([level]) * 256 for level in (200, 60, 30))
    return head + bytes(12) + struct.pack(">H", 0) + planes


def file_of(kind):
    if kind == "PSD":
        return photoshop()
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    image = Image.new("RGB", (16, 16), (200, 60, 30))
    options = {"MPO": {"save_all": True, "append_images": [image]}, "ICO": {"sizes": [(16, 16)]}}
    return encoded(image, kind, **options.get(kind, {})).getvalue()


@pytest.mark.parametrize("kind", [*_FORMATS, "MPO", "HEIF"])
def test_formats_are_told_by_their_content(kind, tmp_path):
    data = file_of(kind)
    sources = [io.BytesIO(data)]
    for name in ("a.bin", "a.jpg", "a.eps"):
        (tmp_path / name).write_bytes(data)
        sources.append(tmp_path / name)
    for source in sources:
        tiles = read_fitted(source, SMALL, "stretch")
        shown = tiles.pixels[0, 32, 32].astype(int)
        assert np.abs(shown - (200, 60, 30)).max() <= 8, source  # JPEG's and its kin's own error
        assert kind == "ICNS" or (tiles.width, tiles.height) == (16, 16)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n"


def test_no_image_starts_a_program(tmp_path, monkeypatch):
    ghostscript, started = tmp_path / "gs", tmp_path / "started"
    ghostscript.write_text(f"#!/bin/sh\n: > {started}\nexit 1\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # it is looked for once a process
    for name in ("a.eps", "a.png", "a.jpg", "a"):
        (tmp_path / name).write_bytes(EPS)
        for source in (tmp_path / name, io.BytesIO(EPS)):
            with pytest.raises(ImageError, match="not an image, or of none of the formats JPEG"):
                read_fitted(source, SMALL, "stretch")
    assert not started.exists()
    with pytest.raises(subprocess.CalledProcessError):
        Image.open(tmp_path / "a.eps").load()
    assert started.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"SIMPLE  =                    T".ljust(2880),  # FITS
        b"\x1c\x03\x3c\0\x03abc",  # IPTC
        b"\xd7\xcd\xc6\x9a".ljust(64, b"\0"),  # WMF
        b"\x89HDF\r\n\x1a\n".ljust(64, b"\0"),
        b"\xff\x0a".ljust(64, b"\0"),  # JPEG XL
        b"%PDF-1.7\n",
    ],
)
def test_other_formats_are_refused(data):
    with pytest.raises(ImageError, match=r"not an image, or of none of .*; convert it") as caught:
        read_fitted(io.BytesIO(data), SMALL, "stretch")
    assert "\n" not in str(caught.value)


def test_extensions_are_those_of_what_is_opened():
    assert {".jpg", ".png", ".webp", ".tif", ".avif", ".heic", ".heif"} < extensions()
    known = Image.registered_extensions()
    for extension in extensions():
        assert known.get(extension, "HEIF") in {*_FORMATS, "HEIF"}
    assert not {".eps", ".ps", ".fits", ".wmf", ".jxl", ".pdf"} & extensions()


def heif(brand=b"heic"):
    data = file_of("HEIF")
    return data[:8] + brand + data[12:]


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_heif_without_its_package(brand, monkeypatch, tmp_path):
    data = heif(brand)
    assert read_fitted(io.BytesIO(data), SMALL, "stretch").width == 16
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.jpg").write_bytes(data)
    for source in (tmp_path / "a.jpg", io.BytesIO(data)):
        with pytest.raises(ImageError, match=r"HEIF: pip install 'tokcodec\[heif\]'"):
            read_fitted(source, SMALL, "stretch")


def test_a_thumbnail_is_not_the_image():
    module = pytest.importorskip("pillow_heif")
    photo = Image.open(COFFEE)
    buffer = io.BytesIO()
    module.from_pillow(photo).save(buffer, quality=90, thumbnails=[150])
    shown = read_fitted(buffer, REDUCED, "stretch").pixels.astype(int)
    whole = read_fitted(buffer, SMALL, "stretch").pixels
    assert np.array_equal(shown, whole)
