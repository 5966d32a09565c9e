"""Image files to the tiles that a model sees, and back. Every rule here decides pixels, so a
change to one that moves a pixel needs a field in ``PreprocessingConfig``.
"""

import io
import math
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from tokcodec.config import PreprocessingConfig
from tokcodec.config.geometry import Placement, Size
from tokcodec.errors import Hint, ImageError
from tokcodec.io.files import is_stream, write_atomically

Pixels = NDArray[np.uint8]


class Readable(Protocol):
    """A binary file, or all that ``read`` gives; a ``name`` that it has is for messages."""

    def read(self) -> bytes: ...


# A path, the bytes of a file, a binary file, an image of Pillow's, or pixels uint8 [H, W, 3]; grey
# ones are [H, W] or [H, W, 1], and those with alpha [H, W, 4].
Source = str | os.PathLike[str] | bytes | Readable | Image.Image | Pixels

MAX_EDGE = 65535  # what a token file can say
_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "adm": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "direct": Image.Resampling.BICUBIC,
}
# The formats that are opened, and the extensions of their files: those that Pillow decodes in this
# process, and whose size it tells before. (It hands EPS to Ghostscript, and takes IPTC and JPEG XL
# for frames of any format. What the name says of a file does not matter.) The common ones, which
# Pillow has loaded, are tried first, and TGA, which has no signature, last.
_FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),  # and MPO, whose first image is one
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "QOI": (".qoi",),
    "PSD": (".psd",),
    "ICO": (".ico",),
    "ICNS": (".icns",),
    "DDS": (".dds",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "PCX": (".pcx",),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
}
_HEIF = "HEIF"  # where pillow-heif is installed
_HEIF_EXTENSIONS = (".heic", ".heics", ".heif", ".heifs", ".hif")
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_HEIF_BRANDS |= {b"mif1", b"msf1"}  # of the container, which is AVIF's, too
_AVIF_BRANDS = {b"avif", b"avis"}
_START = 64  # bytes of a file that tell HEIF
_PLAIN = ("L", "RGB", "CMYK")  # modes that can be resized as they are
_PROFILES = 16  # whose transforms are kept; those of printers take megabytes
_ROUNDING = 1e-6  # pixels that an edge may be off by
_STEP = 15  # of the levels on which a transform is tried
WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Tiles:
    """An image cut into the model's tiles.

    Attributes:
        pixels: uint8 [n, H, W, 3], sRGB: tiles as large as the placement says, or smaller by
            ``config.read_scale``.
        width, height: of the original, after EXIF orientation.
    """

    pixels: Pixels
    width: int
    height: int


def read_tiles(
    source: Source,
    config: PreprocessingConfig,
    place: Callable[[Size], Placement],
    background: tuple[int, int, int] = WHITE,
) -> Tiles:
    """Opens an image and cuts it into tiles.

    The first frame is taken, EXIF orientation applied, an embedded ICC profile converted to
    sRGB, alpha laid over ``background``; then it is resized with Pillow, as ``config.resize`` says.
    The ``direct`` way resizes first where nothing is transparent, and converts what is left.

    Args:
        place: gives the placement of an image of a width and height, as ``ModelConfig.place``.

    Raises:
        ImageError: no image, a damaged one, one above Pillow's decompression bomb limit
            (``PIL.Image.MAX_IMAGE_PIXELS``; None lifts it), an edge above 65,535 pixels, or too
            many tokens for the native fit.
        ValueError: an array of another shape or type.
        TypeError: nothing of ``Source``.
    """
    if isinstance(source, np.ndarray):
        source = _from_array(source)
    if not (isinstance(source, str | os.PathLike | bytes | Image.Image) or hasattr(source, "read")):
        raise TypeError(
            "expected an image (a path, bytes, a binary file, a PIL image, an array), "
            f"not {type(source).__name__}"
        )
    name = _name(source)
    try:
        with _open(source) as image:
            turned = _is_turned(image)
            width, height = image.size[::-1] if turned else image.size
            if max(width, height) > MAX_EDGE:
                raise ImageError(
                    f"{width}x{height} pixels; a token file holds up to {MAX_EDGE} an edge",
                    name=name,
                )
            try:
                placement = place((width, height))
            except ImageError as error:
                raise error.named(name) from error
            # Of HEIF, Pillow's ``draft`` would take a thumbnail, which may show anything.
            is_jpeg = image.format in ("JPEG", "MPO")
            if config.reduced_jpeg and is_jpeg:
                columns, rows = _least(placement, config)
                image.draft(None, (rows, columns) if turned else (columns, rows))
            part = _Part.of(placement, config.read_scale)
            if config.resize != "direct":
                rgb = _resize(to_rgb(image, background), placement, part, _FILTERS[config.resize])
            elif image.mode in _PLAIN and not image.has_transparency_data:
                rgb = to_rgb(_resize_directly(_upright(image), placement, part), background)
            else:
                rgb = _resize_directly(to_rgb(image, background), placement, part)
            pixels = _tiles(rgb, placement, part)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(
            "more pixels than Pillow's decompression bomb limit", name=name, hint=Hint.ALLOW_LARGE
        ) from error
    except Exception as error:
        # Pillow's plugins meet damaged files with nearly any exception: OSError, SyntaxError,
        # struct.error, ValueError, IndexError, zlib.error...
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = (
                f"not an image, or of none of the formats {', '.join(_FORMATS)}, {_HEIF}; "
                "convert it to PNG, say"
            )
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise ImageError(f"cannot read the image: {reason}", name=name) from error
    return Tiles(pixels, width, height)


def size_of(source: Source) -> Size | None:
    """Width and height of an image after EXIF orientation; None where they cannot be read."""
    try:
        with _open(source) as image:
            return image.size[::-1] if _is_turned(image) else image.size
    except Exception:  # of Pillow's plugins; whoever reads the image says what is wrong
        return None


def is_transparent(source: Source) -> bool:
    """Whether an image can have transparent parts; False where it cannot be read."""
    try:
        with _open(source) as image:
            return image.has_transparency_data
    except Exception:  # as of ``size_of``
        return False


def _is_turned(image: Image.Image) -> bool:
    # Of a TIFF, Pillow gives the size that it has when turned.
    return image.format != "TIFF" and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)


def to_rgb(image: Image.Image, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """The image as the eye should see it: upright, sRGB, opaque; mode ``RGB``."""
    profile = image.info.get("icc_profile")
    image = _upright(image)
    if image.mode.startswith("I"):
        image = _from_16_bits(image)
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    elif image.mode not in _PLAIN:
        image = image.convert("RGB")
    transform = _to_srgb(bytes(profile), image.mode) if profile else None
    if transform:
        image = ImageCms.applyTransform(image, transform) or image
    if image.mode != "RGB":
        image = image.convert("RGB")
    if alpha is not None:
        image = Image.composite(image, Image.new("RGB", image.size, background), alpha)
    return image


def to_image(tiles: Pixels, placement: Placement, size: Size | None) -> Image.Image:
    """uint8 [n, S, S, 3] -> the image, at its original size or at ``size`` (width, height).

    Raises:
        ImageError: the image would be above Pillow's decompression bomb limit.
    """
    output = size or placement.output
    check_output(output)
    (columns, rows), (width, height) = placement.grid, placement.tile
    canvas = tiles.reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4)
    image = Image.fromarray(canvas.reshape(rows * height, columns * width, 3))
    image = image.crop(placement.visible)
    return image.resize(output, Image.Resampling.BICUBIC) if output != image.size else image


def check_output(size: Size) -> None:
    """Refuses, like Pillow on opening, to make an image of twice ``MAX_IMAGE_PIXELS``.

    Raises:
        ImageError: it is too large.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and size[0] * size[1] > 2 * limit:
        raise ImageError(
            f"{size[0]}x{size[1]} pixels are more than Pillow's decompression bomb limit",
            hint=Hint.SMALLER_SIZE,
        )


def extensions() -> frozenset[str]:
    """The lower-case extensions of the formats that are opened, dots included."""
    return frozenset(chain(_HEIF_EXTENSIONS, *_FORMATS.values()))


def save(
    image: Image.Image, target: Path | BinaryIO, extension: str = ".png", png_level: int = 1
) -> int:
    """Writes a file in the format of its extension, whole or not at all, or to a stream.

    Gives the number of bytes.

    Args:
        image: what to write.
        target: where to.
        extension: of the format, for a stream, or a device or pipe whose name has none.
        png_level: of zlib, 1 to 9. Level 1 looks for runs alone, which on what models make is
            several times as fast as level 6 and hardly larger.

    Raises:
        ImageError: the extension is of no format that Pillow writes.
        OutputError: the file system refused.
    """
    if isinstance(target, Path) and (target.suffix or not is_stream(target)):
        extension = target.suffix.lower()
    Image.preinit()  # loads the common formats; to load all takes ten times as long
    kind = Image.EXTENSION.get(extension) or Image.registered_extensions().get(extension)
    if kind not in Image.SAVE:
        raise ImageError(
            "no image can be written in that format; name it .png, .jpg or .webp", name=target
        )
    buffer = io.BytesIO()
    strategy = {"compress_type": zlib.Z_RLE} if png_level == 1 else {}
    image.save(buffer, kind, compress_level=png_level, **strategy)
    data = buffer.getvalue()
    if isinstance(target, Path):
        write_atomically(target, lambda file: file.write(data))
    else:
        target.write(data)
    return len(data)


def _name(source: Source) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    name = getattr(source, "filename", None) or getattr(source, "name", None)
    return str(name or "image")


def _from_array(pixels: Pixels) -> Image.Image:
    channels = pixels.shape[2:]
    if (
        pixels.dtype != np.uint8
        or pixels.ndim < 2
        or channels not in ((), (1,), (3,), (4,))
        or not pixels.size
    ):
        raise ValueError(
            "expected pixels uint8 [H, W, 3], [H, W] or [H, W, 4], "
            f"not {pixels.dtype} {list(pixels.shape)}"
        )
    return Image.fromarray(pixels[..., 0] if channels == (1,) else pixels)


def _open(source: Source) -> Image.Image:
    if isinstance(source, Image.Image):
        return source.copy()  # the caller's stays open, and as it is
    Image.preinit()  # loads the common formats; to load all takes as long again
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    if isinstance(source, str | os.PathLike):
        with Path(source).open("rb") as begun:
            start = begun.read(_START)
        return Image.open(Path(source), formats=_formats(start, _name(source)))
    file: Any = source
    try:
        file.seek(0)
    except (AttributeError, io.UnsupportedOperation):
        file = io.BytesIO(file.read())
    return Image.open(file, formats=_formats(file.read(_START), _name(source)))


def _formats(start: bytes, name: str) -> tuple[str, ...]:
    """What a file with these first bytes is tried as.

    Raises:
        ImageError: it is HEIF, and pillow-heif is not installed.
    """
    # What it begins with: size, ``ftyp``, a brand, a version, more brands (ISO 14496-12, 4.3).
    end = min(len(start), int.from_bytes(start[:4], "big"))
    brands = {start[place : place + 4] for place in range(8, end, 4)}
    if start[4:8] != b"ftyp" or brands & _AVIF_BRANDS or not brands & _HEIF_BRANDS:
        return tuple(_FORMATS)
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageError("HEIF: pip install 'tokcodec[heif]'", name=name) from error
    pillow_heif.register_heif_opener()
    return (_HEIF,)


@dataclass(frozen=True)
class _Part:
    """The part of a canvas that shows the image: edges in pixels of the canvas when that is
    ``scale`` times smaller, rounded outwards."""

    scale: int
    left: int
    top: int
    right: int
    bottom: int

    @classmethod
    def of(cls, placement: Placement, scale: int) -> Self:
        (left, right), (top, bottom) = (
            (max(0, offset) // scale, -(-min(offset + length, canvas) // scale))
            for offset, length, canvas in zip(
                placement.offset, placement.resized, placement.canvas, strict=True
            )
        )
        return cls(scale, left, top, right, bottom)


def _least(placement: Placement, config: PreprocessingConfig) -> Size:
    """Width and height that an image may be reduced to before it is resized."""
    width, height = placement.resized
    if config.resize != "direct":
        return 2 * width, 2 * height
    return -(-width // config.read_scale), -(-height // config.read_scale)


def _resize(
    rgb: Image.Image, placement: Placement, part: _Part, resampling: Image.Resampling
) -> Image.Image:
    """The part of the image, of it resized as a whole."""
    for _ in range(placement.halvings):
        rgb = rgb.resize((rgb.width // 2, rgb.height // 2), Image.Resampling.BOX)
    (width, height), (left, top) = placement.resized, placement.offset
    columns, rows = part.right - part.left, part.bottom - part.top
    if columns < width:
        # Pillow resizes across and then down, and the second pass needs no column that is cut off.
        if rgb.width != width:
            rgb = rgb.resize((width, rgb.height), resampling)
        rgb = rgb.crop((part.left - left, 0, part.right - left, rgb.height))
    if rgb.size != (columns, height):
        rgb = rgb.resize((columns, height), resampling)
    return rgb.crop((0, part.top - top, columns, part.bottom - top)) if rows < height else rgb


def _resize_directly(image: Image.Image, placement: Placement, part: _Part) -> Image.Image:
    """The part of the image, in one step from its own pixels."""
    (width, height), (left, top) = placement.resized, placement.offset
    across, down = image.width / width, image.height / height
    x0, x1 = ((x * part.scale - left) * across for x in (part.left, part.right))
    y0, y1 = ((y * part.scale - top) * down for y in (part.top, part.bottom))
    # Less than a pixel of the result, where the image ends within one.
    over = (-x0, -y0, x1 - image.width, y1 - image.height)
    beyond = [math.ceil(max(0, pixels - _ROUNDING)) for pixels in over]
    if any(beyond):
        image = _repeat_edges(image, *beyond)
    box = (
        max(0, x0 + beyond[0]),
        max(0, y0 + beyond[1]),
        min(x1 + beyond[0], image.width),
        min(y1 + beyond[1], image.height),
    )
    size = (part.right - part.left, part.bottom - part.top)
    return image.resize(size, _FILTERS["direct"], box)


def _repeat_edges(image: Image.Image, left: int, top: int, right: int, bottom: int) -> Image.Image:
    pixels = np.asarray(image)
    channels = ((0, 0),) * (pixels.ndim - 2)
    padded = np.pad(pixels, ((top, bottom), (left, right), *channels), mode="edge")
    size = (left + image.width + right, top + image.height + bottom)
    larger = Image.frombytes(image.mode, size, padded.tobytes())
    larger.info = image.info
    return larger


def _tiles(rgb: Image.Image, placement: Placement, part: _Part) -> Pixels:
    """The tiles of a canvas; beyond the borders of the part, the nearest pixel is repeated."""
    (columns, rows), (width, height) = placement.grid, placement.tile
    width, height = width // part.scale, height // part.scale
    canvas = np.asarray(rgb)
    across = (part.left, columns * width - part.right)
    down = (part.top, rows * height - part.bottom)
    if any((*across, *down)):
        canvas = np.pad(canvas, (down, across, (0, 0)), mode="edge")
    tiles = canvas.reshape(rows, height, columns, width, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(tiles.reshape(-1, height, width, 3))


def _upright(image: Image.Image) -> Image.Image:
    # A copy is turned, not the file's own object, so ``draft`` before it stays in force.
    return ImageOps.exif_transpose(image) if image.getexif().get(0x0112, 1) != 1 else image


def _from_16_bits(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255 where it should scale.
    values: NDArray[Any] = np.asarray(image).clip(0, 65535)
    return Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


@lru_cache(_PROFILES)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform of images with this profile; None where it changes nothing, as of sRGB, or
    the profile is broken or for another mode: those are shown as viewers do, without it."""
    try:
        transform = ImageCms.buildTransform(
            io.BytesIO(profile), ImageCms.createProfile("sRGB"), mode, "RGB"
        )
    except (ImageCms.PyCMSError, OSError):
        return None
    if mode == "RGB":
        levels = np.arange(0, 256, _STEP, dtype=np.uint8)
        cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 1, 3)
        ramps = np.stack([np.arange(256, dtype=np.uint8)] * 3, axis=-1).reshape(-1, 1, 3)
        tried = Image.fromarray(np.concatenate([cube, ramps]))
        changed = ImageCms.applyTransform(tried, transform)
        if changed and changed.tobytes() == tried.tobytes():
            return None
    return transform
