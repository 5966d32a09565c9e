"""Picture files to the squares that a model sees, and back. Every rule here decides pixels, so a
change to one that moves a pixel raises ``config.PREPROCESSING_VERSION``.
"""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from tokcodec.config import PreprocessingConfig
from tokcodec.errors import PictureError
from tokcodec.files import write_atomically
from tokcodec.geometry import Fit, Placement, Size, place

Pixels = NDArray[np.uint8]


class Readable(Protocol):
    """A binary file, or all that ``read`` gives; a ``name`` that it has is for messages."""

    def read(self) -> bytes: ...


Source = str | os.PathLike[str] | Readable | Image.Image

MAX_EDGE = 65535  # what a token file can say
_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "adm": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Squares:
    """A picture cut into the model's squares.

    Attributes:
        pixels: uint8 [n, S, S, 3], sRGB; in the native fit [1, H, W, 3].
        width, height: of the original, after EXIF orientation.
        fit: how it was fitted.
    """

    pixels: Pixels
    width: int
    height: int
    fit: Fit


def read_squares(
    source: Source,
    config: PreprocessingConfig,
    fit: Fit,
    background: tuple[int, int, int] = WHITE,
    multiple: int = 0,
) -> Squares:
    """Opens a picture and fits it to the model's square.

    The first frame is taken, EXIF orientation applied, an embedded ICC profile converted to
    sRGB, alpha laid over ``background``; then it is resized with Pillow, as ``config.resize`` says.

    Args:
        multiple: of the model; what the edges become multiples of in the native fit.

    Raises:
        PictureError: no picture, a damaged one, one above Pillow's decompression bomb limit
            (``PIL.Image.MAX_IMAGE_PIXELS``; None lifts it), an edge above 65,535 pixels, or too
            many codes for the native fit.
    """
    name = _name(source)
    try:
        with _open(source) as image:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            width, height = image.size[::-1] if turned else image.size
            if max(width, height) > MAX_EDGE:
                raise PictureError(
                    f"{name}: {width}x{height} pixels; a token file holds up to {MAX_EDGE} an edge"
                )
            side = multiple if fit == "native" else config.image_size
            try:
                placement = place(fit, width, height, side, config.resize)
            except PictureError as error:
                raise PictureError(f"{name}: {error}") from error
            if config.reduced_jpeg and fit not in ("tile", "native"):
                needed = placement.resized[::-1] if turned else placement.resized
                image.draft(None, (2 * needed[0], 2 * needed[1]))
            rgb = to_rgb(image, background)
            pixels = _cut(rgb, placement, _FILTERS[config.resize])
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"{name}: more pixels than Pillow's decompression bomb limit; "
            "allow it with --allow-large if you trust the file"
        ) from error
    except Exception as error:
        # Pillow's plugins meet damaged files with nearly any exception: OSError, SyntaxError,
        # struct.error, ValueError, IndexError, zlib.error...
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "not a picture that Pillow knows"
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise PictureError(f"{name}: cannot read the picture: {reason}") from error
    return Squares(pixels, width, height, fit)


def to_rgb(image: Image.Image, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """The picture as the eye should see it: upright, sRGB, opaque; mode ``RGB``."""
    profile = image.info.get("icc_profile")
    # A copy is turned, not the file's own object, so ``draft`` above stays in force.
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = _from_16_bits(image)
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    if profile:
        image = _to_srgb(image, profile)
    image = image.convert("RGB")
    if alpha is not None:
        image = Image.composite(image, Image.new("RGB", image.size, background), alpha)
    return image


def to_image(squares: Pixels, placement: Placement, size: Size | None) -> Image.Image:
    """uint8 [n, S, S, 3] -> the picture, at its original size or at ``size`` (width, height).

    Raises:
        PictureError: the picture would be above Pillow's decompression bomb limit.
    """
    output = size or placement.output
    check_output(output)
    (columns, rows), (width, height) = placement.grid, placement.square
    canvas = squares.reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4)
    image = Image.fromarray(canvas.reshape(rows * height, columns * width, 3))
    image = image.crop(placement.visible)
    return image.resize(output, Image.Resampling.BICUBIC) if output != image.size else image


def check_output(size: Size) -> None:
    """Refuses, like Pillow on opening, to make a picture of twice ``MAX_IMAGE_PIXELS``.

    Raises:
        PictureError: it is too large.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and size[0] * size[1] > 2 * limit:
        raise PictureError(
            f"{size[0]}x{size[1]} pixels are more than Pillow's decompression bomb limit; "
            "ask for a smaller --size, or allow it with --allow-large"
        )


def extensions() -> frozenset[str]:
    """The lower-case extensions of the files that Pillow opens, dots included."""
    known = Image.registered_extensions()
    return frozenset(extension for extension, kind in known.items() if kind in Image.OPEN)


def save(image: Image.Image, target: Path | BinaryIO) -> int:
    """Writes a file in the format of its extension, whole or not at all, or PNG to a stream.

    Gives the number of bytes.

    Raises:
        PictureError: the extension is of no format that Pillow writes.
        OutputError: the file system refused.
    """
    kind: str | None = "PNG"
    if isinstance(target, Path):
        kind = Image.registered_extensions().get(target.suffix.lower())
        if kind not in Image.SAVE:
            raise PictureError(f"{target}: Pillow writes no such format; name it .png, say")
    buffer = io.BytesIO()
    image.save(buffer, kind)
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
    return str(name or "picture")


def _open(source: Source) -> Image.Image:
    if isinstance(source, Image.Image):
        return source.copy()  # the caller's stays open, and as it is
    # Pillow reads all of what cannot seek.
    return Image.open(Path(source) if isinstance(source, str) else source)  # type: ignore[arg-type]


def _cut(rgb: Image.Image, placement: Placement, resampling: Image.Resampling) -> Pixels:
    for _ in range(placement.halvings):
        rgb = rgb.resize((rgb.width // 2, rgb.height // 2), Image.Resampling.BOX)
    if rgb.size != placement.resized:
        rgb = rgb.resize(placement.resized, resampling)
    (columns, rows), (width, height) = placement.grid, placement.square
    # What of the picture lies on the canvas; beyond its borders, the nearest pixel is repeated.
    horizontal, before_x = _overlap(rgb.width, placement.offset[0], columns * width)
    vertical, before_y = _overlap(rgb.height, placement.offset[1], rows * height)
    canvas = np.asarray(rgb)[vertical, horizontal]
    if any((*before_x, *before_y)):
        canvas = np.pad(canvas, (before_y, before_x, (0, 0)), mode="edge")
    squares = canvas.reshape(rows, height, columns, width, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(squares.reshape(-1, height, width, 3))


def _overlap(length: int, offset: int, canvas: int) -> tuple[slice, tuple[int, int]]:
    """The part of an edge that lies on the canvas, and how much of that is empty on both sides."""
    start, stop = max(0, -offset), min(length, canvas - offset)
    return slice(start, stop), (max(0, offset), max(0, canvas - offset - length))


def _from_16_bits(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255 where it should scale.
    values: NDArray[Any] = np.asarray(image).clip(0, 65535)
    return Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    try:
        converted = ImageCms.profileToProfile(
            image, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError):
        return image  # a broken profile, or one for another mode: shown as viewers do, without it
    assert converted is not None  # only in place does it return None
    return converted
