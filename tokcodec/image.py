"""Read image files as tiles for a model, and make images from decoded tiles.

This module decides which pixels a model sees. A change that alters any of them needs a field in
``PreprocessingConfig``.
"""

import io
import itertools
import math
import os
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from tokcodec.config import PreprocessingConfig
from tokcodec.config.geometry import Placement, Size
from tokcodec.errors import Hint, ImageError
from tokcodec.io.files import is_stream, write_atomically
from tokcodec.io.imagefile import Readable, image_errors, open_image

Pixels = NDArray[np.uint8]
# A path, the bytes of an image file, a binary file, a PIL image, or pixels: uint8 [H, W, 3], grey
# ones [H, W] or [H, W, 1], or with alpha [H, W, 4].
Source = str | os.PathLike[str] | bytes | Readable | Image.Image | Pixels

MAX_EDGE = 65535  # the largest width and height that a token file can store
_BAND = 1 << 22  # pixels that are converted to RGB at once
_BICUBIC = Image.Resampling.BICUBIC
_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "adm": Image.Resampling.BICUBIC,
    "chameleon": Image.Resampling.LANCZOS,
    "direct": Image.Resampling.BICUBIC,
}
_PLAIN = ("L", "RGB", "CMYK")  # modes that can be resized without a conversion
_PROFILES = 16  # color transforms that are cached; those of printers take megabytes
_ROUNDING = 1e-6  # pixels, the error of a computed edge
_STEP = 15  # between the levels on which a transform is tested
WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Tiles:
    """An image cut into the model's tiles.

    Attributes:
        pixels: uint8 [n, H, W, 3], sRGB. H and W are those of the placement's tile, divided by
            ``config.read_scale``.
        width, height: size of the original image, after EXIF orientation.
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
    """Read an image and cut it into tiles.

    The first frame is used. EXIF orientation is applied, an embedded ICC profile is converted to
    sRGB, and transparent parts are laid over ``background``. Then Pillow resizes the image as
    ``config.resize`` says; ``direct`` resizes opaque images first and converts the result.

    Args:
        source: the image.
        config: the preprocessing of the model.
        place: returns the placement of an image of the given size, as ``ModelConfig.place`` does.
        background: red, green and blue behind transparent parts.

    Raises:
        ImageError: the source is not an image or is damaged, has float or 32-bit pixels, or is
            above a limit: Pillow's on pixels (``PIL.Image.MAX_IMAGE_PIXELS``; None lifts it),
            65,535 pixels an edge, 100 scans of a progressive JPEG, 64 KiB of a PPM header, or the
            tokens of the native fit.
        ValueError: an array of another shape or type.
        TypeError: an object that is not a ``Source``.
    """
    if isinstance(source, np.ndarray):
        source = _from_array(source)
    if not (isinstance(source, str | os.PathLike | bytes | Image.Image) or hasattr(source, "read")):
        raise TypeError(
            "expected an image (a path, bytes, a binary file, a PIL image, an array), "
            f"not {type(source).__name__}"
        )
    with image_errors(_name(source)), _open(source) as image:
        turned = _is_turned(image)
        width, height = image.size[::-1] if turned else image.size
        if max(width, height) > MAX_EDGE:
            raise ImageError(f"{width}x{height} pixels; the limit is {MAX_EDGE} an edge")
        placement = place((width, height))
        # For HEIF, Pillow's ``draft`` would take a thumbnail, which may show anything.
        if config.reduced_jpeg and image.format in ("JPEG", "MPO"):
            columns, rows = _least(placement, config)
            image.draft(None, (rows, columns) if turned else (columns, rows))
        part = _Part.of(placement, config.read_scale)
        if config.resize != "direct":
            rgb = _resize(to_rgb(image, background), placement, part, _FILTERS[config.resize])
        elif image.mode in _PLAIN and not image.has_transparency_data:
            rgb = to_rgb(_resize_directly(_upright(image), placement, part), background)
        else:
            rgb = _resize_directly(to_rgb(image, background), placement, part)
        return Tiles(_tiles(rgb, placement, part), width, height)


def size_of(source: Source) -> Size | None:
    """Width and height of an image after EXIF orientation; None if they cannot be read."""
    try:
        with _open(source) as image:
            return image.size[::-1] if _is_turned(image) else image.size
    except Exception:  # as in ``image_errors``; reading the image reports the error
        return None


def is_transparent(source: Source) -> bool:
    """Whether an image can have transparent parts; False if it cannot be read."""
    try:
        with _open(source) as image:
            return image.has_transparency_data
    except Exception:  # as in ``size_of``
        return False


def _is_turned(image: Image.Image) -> bool:
    # Pillow reports the size of a TIFF after orientation.
    return image.format != "TIFF" and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)


def to_rgb(image: Image.Image, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """Convert an image to upright, opaque sRGB, of the mode ``RGB``.

    Raises:
        ImageError: the format does not define which numbers are black and white.
    """
    # Pillow scales the 16 bits of PPM to the mode I; in other formats, that means 32 bits.
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        kind = "floating-point" if image.mode == "F" else "signed or 32-bit"
        raise ImageError(f"{kind} pixels have no defined range; convert it to 8 or 16 bits")
    bits = image.getexif().get(0x0102) if image.format == "TIFF" else None  # a tag of TIFF
    white = 4095 if image.mode == "I;16" and bits == 12 else 65535
    image = _upright(image)
    if image.mode == "RGB" and not image.has_transparency_data and "icc_profile" not in image.info:
        return image
    rgb = Image.new("RGB", image.size, background)
    rows = max(1, _BAND // image.width)  # so that few copies of a large image are in memory
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb.paste(*_band_to_rgb(band, top, white))
    return rgb


def _band_to_rgb(
    band: Image.Image, top: int, white: int
) -> tuple[Image.Image, tuple[int, int], Image.Image | None]:
    """The band in sRGB, its place in the image, and its alpha channel."""
    profile, alpha = band.info.get("icc_profile"), None
    if band.mode.startswith("I"):
        band.info.pop("transparency", None)  # a number of 16 bits
        band = band.convert("I").point(_levels(white), "L")
    if band.has_transparency_data:
        band = band.convert("RGBA")
        alpha = band.getchannel("A")
        band = band.convert("RGB")
    elif band.mode not in _PLAIN:
        band = band.convert("RGB")
    transform = _to_srgb(bytes(profile), band.mode) if profile else None
    if transform:
        band = ImageCms.applyTransform(band, transform) or band
    return band if band.mode == "RGB" else band.convert("RGB"), (0, top), alpha


@dataclass(frozen=True)
class Canvas:
    """The positions of the decoded parts of an image, and the part of them that is shown.

    Attributes:
        placement: the placement of the image on its tiles.
        output: width and height of the image.
        tops, lefts: edges of the parts, in pixels of the canvas. Each part is as large as a tile;
            together they cover the canvas, and may overlap.
    """

    placement: Placement
    output: Size
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @classmethod
    def of_tiles(cls, placement: Placement, output: Size) -> Self:
        """The canvas whose parts are the tiles."""
        (columns, rows), (width, height) = placement.grid, placement.tile
        tops, lefts = range(0, rows * height, height), range(0, columns * width, width)
        return cls(placement, output, tuple(tops), tuple(lefts))

    @property
    def num_parts(self) -> int:
        return len(self.tops) * len(self.lefts)


def to_image(parts: Iterable[Pixels], canvas: Canvas) -> Image.Image:
    """Make an image from its parts, each uint8 [H, W, 3], row by row.

    Where parts overlap, each fades out towards its edges. Parts are taken one at a time, so that
    not all of them must be in memory.
    """
    left, top, right, bottom = canvas.placement.visible
    width, height = canvas.placement.tile
    image = Image.new("RGB", (right - left, bottom - top))
    weights = np.multiply.outer(_fading(height), _fading(width))[..., None]
    # The sums of the weighted pixels of a row of parts, and of the weights.
    pixels = np.zeros((height, canvas.placement.canvas[0], 3), np.float32)
    total = np.zeros((*pixels.shape[:2], 1), np.float32)
    remaining = iter(parts)
    for start, end in itertools.pairwise((*canvas.tops, canvas.tops[-1] + height)):
        for across, part in zip(canvas.lefts, remaining, strict=False):
            pixels[:, across : across + width] += weights * part
            total[:, across : across + width] += weights
        done = end - start
        band = (pixels[:done] / total[:done]).round().astype(np.uint8)
        image.paste(Image.fromarray(band), (-left, start - top))
        for rows in (pixels, total):
            rows[: height - done] = rows[done:]
            rows[height - done :] = 0
    return image if canvas.output == image.size else image.resize(canvas.output, _BICUBIC)


def _fading(edge: int) -> NDArray[np.float32]:
    """Weights that decrease from the middle of an edge to its ends."""
    places = np.arange(edge, dtype=np.float32) + 0.5
    weights: NDArray[np.float32] = np.minimum(places, edge - places)
    return weights


def check_output(placement: Placement, output: Size) -> None:
    """Refuse images of more than twice ``PIL.Image.MAX_IMAGE_PIXELS``, as Pillow does on opening.

    Raises:
        ImageError: the canvas or the image would have more pixels.
    """
    limit = Image.MAX_IMAGE_PIXELS
    for size, hint in ((placement.canvas, Hint.ALLOW_LARGE), (output, Hint.SMALLER_SIZE)):
        if limit is not None and size[0] * size[1] > 2 * limit:
            raise ImageError(
                f"{size[0]}x{size[1]} pixels are more than Pillow's decompression bomb limit",
                hint=hint,
            )


def save(
    image: Image.Image, target: Path | BinaryIO, extension: str = ".png", png_level: int = 1
) -> int:
    """Write an image in the format of the file's extension, and return the number of bytes.

    Args:
        image: the image.
        target: a path, which is written whole or not at all, or a binary file.
        extension: the format, if the target is a binary file, or a device or pipe whose name has
            no extension.
        png_level: compression level of PNG, 1 to 9. Level 1 looks only for runs; on decoded images
            it is several times as fast as level 6 and hardly larger.

    Raises:
        ImageError: Pillow cannot write this format.
        OutputError: the file cannot be written.
    """
    if isinstance(target, Path) and (target.suffix or not is_stream(target)):
        extension = target.suffix.lower()
    Image.preinit()  # loads only the common formats; all of them take ten times as long
    kind = Image.EXTENSION.get(extension) or Image.registered_extensions().get(extension)
    if kind not in Image.SAVE:
        raise ImageError(
            "no image can be written under this name; use .png, .jpg or .webp", name=target
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


def _open(source: Source) -> Image.Image:
    if isinstance(source, np.ndarray):
        return _from_array(source)
    # The caller's image stays open and unchanged.
    return source.copy() if isinstance(source, Image.Image) else open_image(source)


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


@dataclass(frozen=True)
class _Part:
    """The part of a canvas that shows the image, in pixels at 1/``scale`` of its size."""

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
    """The smallest size at which a JPEG may be decoded."""
    width, height = placement.resized
    if config.resize != "direct":
        return 2 * width, 2 * height
    return -(-width // config.read_scale), -(-height // config.read_scale)


def _resize(
    rgb: Image.Image, placement: Placement, part: _Part, resampling: Image.Resampling
) -> Image.Image:
    """Resize the whole image, and return the part that the canvas shows."""
    for _ in range(placement.halvings):
        rgb = rgb.resize((rgb.width // 2, rgb.height // 2), Image.Resampling.BOX)
    (width, height), (left, top) = placement.resized, placement.offset
    columns, rows = part.right - part.left, part.bottom - part.top
    if columns < width:
        # Pillow resizes columns and then rows; the second step can omit columns that are cut.
        if rgb.width != width:
            rgb = rgb.resize((width, rgb.height), resampling)
        rgb = rgb.crop((part.left - left, 0, part.right - left, rgb.height))
    if rgb.size != (columns, height):
        rgb = rgb.resize((columns, height), resampling)
    return rgb.crop((0, part.top - top, columns, part.bottom - top)) if rows < height else rgb


def _resize_directly(image: Image.Image, placement: Placement, part: _Part) -> Image.Image:
    """Resize the part of the image that the canvas shows, in one step."""
    (width, height), (left, top) = placement.resized, placement.offset
    across, down = image.width / width, image.height / height
    x0, x1 = ((x * part.scale - left) * across for x in (part.left, part.right))
    y0, y1 = ((y * part.scale - top) * down for y in (part.top, part.bottom))
    # Less than a pixel of the result, where the image ends inside of one.
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
    """Cut the canvas into tiles; outside of the part, its edge pixels are repeated."""
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
    # exif_transpose returns a copy, so only an image that needs it: ``draft`` must stay in force.
    return ImageOps.exif_transpose(image) if image.getexif().get(0x0112, 1) != 1 else image


@cache
def _levels(white: int) -> list[int]:
    """The 8-bit level of each 16-bit number."""
    return [(min(number, white) * 255 + white // 2) // white for number in range(1 << 16)]


@lru_cache(_PROFILES)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform of images with this profile to sRGB.

    None if it changes nothing. Also None if the profile is damaged or for another mode: it is then
    ignored, as by image viewers.
    """
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
