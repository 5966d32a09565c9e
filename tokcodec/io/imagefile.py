"""Opens untrusted image files: formats, limits, and errors of one line."""

import contextlib
import ctypes
import io
import os
import re
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from PIL import Image, ImageFile, UnidentifiedImageError, _imaging

from tokcodec.errors import Hint, ImageError

# Scans of a progressive JPEG, each of which takes as long as a whole image. Encoders write about
# 10; libtiff has the same limit.
_MAX_SCANS = 100
_MAX_PPM_HEADER = 1 << 16  # bytes, with comments, which Pillow reads one by one
# The formats and the extensions of their files: those that Pillow decodes in this process, with a
# size that is known before decoding. (It passes EPS to Ghostscript, and accepts any format inside
# IPTC and JPEG XL.) Common formats are tried first; TGA, which has no signature, last.
_FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),  # and MPO, whose first image is one
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
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
_HEIF = "HEIF"  # if pillow-heif is installed
_HEIF_EXTENSIONS = (".heic", ".heics", ".heif", ".heifs", ".hif")
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_HEIF_BRANDS |= {b"mif1", b"msf1"}  # of the container, which AVIF uses too
_AVIF_BRANDS = {b"avif", b"avis"}
_START = 64  # bytes at the start of a file that identify HEIF
_JPEG_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")  # markers with a length
_PPM_COMMENT = re.compile(rb"#[^\r\n]*[\r\n]?")


class Readable(Protocol):
    """A binary file, or any object whose ``read`` returns the bytes of one.

    Messages use its ``name``, if it has one.
    """

    def read(self) -> bytes: ...


def extensions() -> frozenset[str]:
    """The extensions of all formats in lower case, with their dots."""
    return frozenset(chain(_HEIF_EXTENSIONS, *_FORMATS.values()))


@contextlib.contextmanager
def image_errors(name: str) -> Iterator[None]:
    """Raise any error of reading an image as an ``ImageError`` with its name."""
    try:
        yield
    except ImageError as error:
        raise error.named(name) from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            "more pixels than Pillow's decompression bomb limit", name=name, hint=Hint.ALLOW_LARGE
        ) from error
    except Exception as error:
        # Pillow's plugins raise nearly any exception on damaged files: OSError, SyntaxError,
        # struct.error, ValueError, IndexError, zlib.error...
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            formats = ", ".join((*_FORMATS, _HEIF))
            reason = f"not an image, or of none of the formats {formats}; convert it to PNG"
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise ImageError(f"cannot read the image: {reason}", name=name) from error


def open_image(source: str | os.PathLike[str] | bytes | Readable) -> Image.Image:
    """Open an image file by its content, not its name; no image starts another program.

    Raises:
        ImageError: a progressive JPEG has more than 100 scans, a PPM header more than 64 KiB, or a
            file is HEIF and pillow-heif is not installed.
        Exception: what Pillow's plugins raise, see ``image_errors``.
    """
    Image.preinit()  # loads the common formats; loading all takes twice as long
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    if isinstance(source, str | os.PathLike):
        with Path(source).open("rb") as begun:
            formats = _formats(begun)
        image = Image.open(Path(source), formats=formats)
    else:
        file: Any = source
        try:
            file.seek(0)
        except (AttributeError, io.UnsupportedOperation):
            file = io.BytesIO(file.read())
        image = Image.open(file, formats=_formats(file))
    if image.format in ("JPEG", "MPO") and image.info.get("progressive"):
        _check_scans(image)
    return image


def _formats(file: BinaryIO) -> tuple[str, ...]:
    """The formats to try on a file, by its first bytes; raises ImageError as ``open_image``."""
    start = file.read(_START)
    if re.match(rb"P[0-6fy]", start):
        _check_ppm_header(start + file.read(_MAX_PPM_HEADER - _START))
    elif start.startswith((b"II", b"MM")):
        _silence_libtiff()
    # HEIF begins with a size, ``ftyp``, a brand, a version, more brands (ISO 14496-12, 4.3).
    end = min(len(start), int.from_bytes(start[:4], "big"))
    brands = {start[place : place + 4] for place in range(8, end, 4)}
    if start[4:8] != b"ftyp" or brands & _AVIF_BRANDS or not brands & _HEIF_BRANDS:
        return tuple(_FORMATS)
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageError("HEIF: pip install 'tokcodec[heif]'") from error
    pillow_heif.register_heif_opener()
    return (_HEIF,)


def _check_ppm_header(start: bytes) -> None:
    words = _PPM_COMMENT.sub(b"", start).split(maxsplit=4)
    if len(start) == _MAX_PPM_HEADER and len(words) < (3 if start[1:2] in b"14" else 4):
        raise ImageError(f"its header has more than {_MAX_PPM_HEADER} bytes; remove its comments")


def _check_scans(image: ImageFile.ImageFile) -> None:
    file = image.fp
    assert file
    file.seek(0)
    data, place, scans = file.read(), 2, 0
    while (marker := _JPEG_MARKER.search(data, place)) and marker[0] != b"\xff\xd9":  # the end
        scans += marker[0] == b"\xff\xda"
        place = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    if scans > _MAX_SCANS:
        raise ImageError(f"{scans} scans of a progressive JPEG; save it again with fewer")


@cache
def _silence_libtiff() -> None:
    # It prints errors of damaged files to standard error. Pillow raises them, too.
    with contextlib.suppress(AttributeError, OSError):  # a Pillow without libtiff
        library = ctypes.CDLL(_imaging.__file__)
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)
