"""``Codec``: images to token files and back, with one checkpoint."""

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Self, TypeVar, get_args, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokcodec import checkpoint
from tokcodec.budget import largest_within
from tokcodec.config import DEFAULT_WEIGHTS, ModelConfig
from tokcodec.config.geometry import Fit
from tokcodec.decoding import Decoding, OutputSize
from tokcodec.encoding import Encoding, require_counts
from tokcodec.errors import ImageError, TokcodecError
from tokcodec.image import WHITE, Canvas, Pixels, Source, Tiles, size_of, to_image
from tokcodec.model.runtime import Dtype, Runtime, RuntimeName, choose_runtime
from tokcodec.parallel import map_ahead
from tokcodec.tokenfile import TokenFile, check_integers

if TYPE_CHECKING:
    from torch import Tensor

    from tokcodec.model.tokenizer import Tokenizer
    from tokcodec.model.torch_runtime import TorchRuntime

T = TypeVar("T")
R = TypeVar("R")
Tag = TypeVar("Tag")
Other = TypeVar("Other")
Rows = NDArray[Any]

# Or a tensor: uint8 [3, H, W], grey ones [H, W] or [1, H, W], or with alpha [4, H, W].
ImageLike = Source | Any
Compressed = TokenFile | str | os.PathLike[str] | bytes  # parsed, a path, or the bytes
_NOTHING: Rows = np.empty(0)

_BATCHES_AHEAD = 4  # for which images are read while the model runs
_ROUNDING = 1e-3  # by which pixels may exceed [0, 1]


class Codec:
    """Encode images to token files and decode them, with one checkpoint.

    >>> from tokcodec import Codec
    >>> codec = Codec.load()
    >>> token_file = codec.compress("tests/data/coffee.jpg")
    >>> codec.decompress(token_file).size
    (600, 400)
    """

    def __init__(self, header: checkpoint.Header, runtime: Runtime) -> None:
        self.header, self.runtime = header, runtime

    @classmethod
    def load(
        cls,
        weights: str | checkpoint.Header = DEFAULT_WEIGHTS,
        device: str = "auto",
        *,
        runtime: RuntimeName = "auto",
        batch_size: int | None = None,
        dtype: Dtype = "float32",
        compiled: bool = False,
    ) -> Self:
        """Load a checkpoint.

        Args:
            weights: a bundled name, a file, a folder with one checkpoint, a model on the hub, or
                a header; a published checkpoint of another program is converted first.
            device: ``auto`` (CUDA if there is one), ``cpu``, ``cuda``, or torch's name of one.
            runtime: ``torch``; ``numpy``, which loads sooner and runs models of the kind patch
                on the CPU; or ``auto``, which is torch if it is installed.
            batch_size: tiles that the model runs on at once. If None, it depends on the device,
                and tiles that are not the model's square are run one at a time.
            dtype: of the matrix products in encoder and decoder (autocast), except for the last
                before the quantizer. In ``bfloat16`` some tokens differ from ``float32``.
            compiled: compile the encoder with ``torch.compile``.

        Raises:
            CheckpointError: there is no such checkpoint, or it is damaged.
            DeviceError: there is no such device.
            ValueError: the NumPy runtime does not run this model, or an argument has no such value.

        >>> Codec.load("tokcodec", device="cpu", runtime="numpy").runtime.device
        'cpu'
        """
        require_counts("batch_size", batch_size)
        for value, known in ((dtype, get_args(Dtype)), (runtime, get_args(RuntimeName))):
            if value not in known:
                raise ValueError(f"{value!r} is none of {', '.join(known)}")
        header = checkpoint.find(weights) if isinstance(weights, str) else weights
        if runtime == "auto":
            runtime = choose_runtime(header.config, device, dtype)
        if runtime == "numpy":
            from tokcodec.model.numpy_runtime import NumpyRuntime

            if device not in ("auto", "cpu") or dtype != "float32":
                raise ValueError("the NumPy runtime computes in float32 on the CPU")
            return cls(header, NumpyRuntime.load(header))
        from tokcodec.model.torch_runtime import TorchRuntime

        return cls(header, TorchRuntime.load(header, device, batch_size, dtype, compiled))

    def __repr__(self) -> str:
        config, side = self.config, self.config.preprocessing.image_size
        return (
            f"<Codec {self.header.name}: {config.num_tokens} tokens of "
            f"{config.quantizer.bits} bits "
            f"for {side}x{side} pixels, {self.runtime.dtype} on {self.runtime.device}>"
        )

    @property
    def config(self) -> ModelConfig:
        return self.header.config

    @property
    def batch_size(self) -> int:
        """Tiles that the model runs on at once."""
        return self.runtime.batch_size

    @property
    def model(self) -> "Tokenizer":
        """The network, if the codec runs it in torch."""
        return self._torch().model

    # Between images and token files

    def compress(
        self,
        image: ImageLike,
        *,
        fit: Fit | None = None,
        tokens: int | None = None,
        max_bytes: int | None = None,
        packets: int | None = None,
        packet_bytes: int | None = None,
        parity: bool = False,
        text: bool = False,
        background: tuple[int, int, int] = WHITE,
        packed: bool = False,
        best: bool = False,
    ) -> TokenFile:
        """Encode one image.

        Args:
            image: a path, the bytes of an image file, a binary file, a PIL image, or pixels: an
                array uint8 [H, W, 3] or a tensor uint8 [3, H, W]. One channel is grey; of four
                channels the last is alpha.
            fit: ``stretch``, ``crop``, ``pad``, ``tile``, or for a checkpoint of any size
                ``aspect`` or ``native``; the checkpoint's default if None.
            tokens: the most tokens of a tile; the checkpoint's default if None. Models that take
                images of any size choose a grid; some others decode their first tokens alone.
            max_bytes: use as many tokens as fit into a file of this many bytes.
            packets: split the image into at most this many packets, see ``TokenFile.split``.
            packet_bytes: use as many tokens as fit into packets of this many bytes each.
            parity: add a packet that restores any one of the others.
            text: ``max_bytes`` and ``packet_bytes`` limit the characters of messages instead.
            background: red, green and blue behind transparent parts.
            packed: do not entropy-code the tokens. By default they are entropy-coded if the
                checkpoint has a prior and that makes the file shorter.
            best: also try grids of other shapes, and return the file whose image is closest to the
                original. This takes about five times as long.

        Raises:
            ImageError: the image cannot be read, or its smallest file is above ``max_bytes``.
            CheckpointError: the checkpoint does not support this fit or number of tokens.
            TypeError: ``image`` is not an image, or a number is not an integer.
            ValueError: pixels have another shape or type, or an option is not valid.

        >>> codec.compress("tests/data/coffee.jpg", tokens=24).num_tokens
        24
        >>> codec.compress("tests/data/coffee.jpg", max_bytes=200).file_bytes <= 200
        True
        """
        limits = (max_bytes, packets, packet_bytes, parity, text)
        encoding = Encoding(self.header, fit, tokens, *limits, background, packed, best)
        return self._compress(encoding, image)

    def _compress(self, encoding: Encoding, image: ImageLike) -> TokenFile:
        if not encoding.best:
            return self._compress_largest(encoding, image)
        image = _reread(image)
        usual = self._compress_largest(encoding, image)
        files = {(usual.rows, usual.columns): usual}
        for other in encoding.others():
            with contextlib.suppress(ImageError):  # its smallest file is too large
                file = self._compress_largest(other, image, usual.num_tokens)
                files.setdefault((file.rows, file.columns), file)
        if len(files) == 1:
            return usual
        canvas, _ = Decoding(self.header, self.runtime, None, None).open(usual)
        size = canvas.output
        original = encoding.original(_source(image), size).astype(np.int32)

        def error(file: TokenFile) -> int:
            shown = np.asarray(self.decompress(file, size=size))
            return int(np.square(shown - original).sum())

        return min(files.values(), key=error)

    def _compress_largest(
        self, encoding: Encoding, image: ImageLike, start: int | None = None
    ) -> TokenFile:
        """The file with the most tokens that are asked for, or that fit; ``start`` is that of
        ``largest_within``."""

        def compress(count: int | None) -> TokenFile:
            tiles = encoding.read(_source(image), count)
            return encoding.token_file(tiles, self.encode_tiles(tiles.pixels), count)

        if encoding.most_bytes is None:
            return compress(encoding.tokens)
        image = _reread(image)
        size = size_of(_source(image)) or (1, 1)  # compress reports a file that is not an image
        return largest_within(
            compress,
            lambda count: encoding.token_count(size, count),
            encoding.size_of,
            encoding.most_bytes,
            encoding.most_tokens,
            encoding.what,
            "character" if encoding.text else "byte",
            start,
        )

    def compress_stream(
        self,
        items: Iterable[tuple[Tag, ImageLike]],
        *,
        fit: Fit | None = None,
        tokens: int | None = None,
        max_bytes: int | None = None,
        packets: int | None = None,
        packet_bytes: int | None = None,
        parity: bool = False,
        text: bool = False,
        background: tuple[int, int, int] = WHITE,
        packed: bool = False,
        best: bool = False,
        workers: int = 1,
    ) -> Iterator[tuple[Tag, TokenFile | TokcodecError]]:
        """Encode many images: ``(tag, image)`` in, ``(tag, token file)`` out, in the same order.

        The result of an image that cannot be read is its error. A tag is any object that
        identifies the image. For ``workers`` see ``encode_stream``, for the other options
        ``compress``.

        >>> paths = ["tests/data/coffee.jpg", "tests/data/chelsea.png"]
        >>> for path, result in codec.compress_stream(zip(paths, paths), tokens=16):
        ...     print(path, result.num_tokens)
        tests/data/coffee.jpg 16
        tests/data/chelsea.png 16
        """
        limits = (max_bytes, packets, packet_bytes, parity, text)
        encoding = Encoding(self.header, fit, tokens, *limits, background, packed, best)
        if encoding.most_bytes is None and not best:
            return self._compress_batches(encoding, items, workers)

        def compress(item: tuple[Tag, ImageLike]) -> tuple[Tag, TokenFile | TokcodecError]:
            tag, image = item
            try:
                return tag, self._compress(encoding, image)
            except ImageError as error:
                return tag, error

        return self.runtime.map(compress, items, workers)

    def _compress_batches(
        self, encoding: Encoding, items: Iterable[tuple[Tag, ImageLike]], workers: int
    ) -> Iterator[tuple[Tag, TokenFile | TokcodecError]]:
        def read(item: tuple[Tag, ImageLike]) -> tuple[tuple[Tag, Tiles | None], Rows | ImageError]:
            tag, image = item
            try:
                tiles = encoding.read(_source(image), encoding.tokens)
            except ImageError as error:
                return (tag, None), error
            return (tag, replace(tiles, pixels=_NOTHING)), tiles.pixels

        def token_file(of: tuple[Tag, Tiles | None], tokens: Rows) -> TokenFile | ImageError:
            assert of[1]
            try:
                return encoding.token_file(of[1], tokens, encoding.tokens)
            except ImageError as error:
                return error

        rows = map_ahead(read, items, workers, self._ahead(encoding.fit, workers))
        for (tag, _), result in self._in_batches(rows, self.encode_tiles, token_file, workers):
            yield tag, result

    def encode_stream(
        self,
        items: Iterable[T],
        read: Callable[[T], tuple[Tag, Tiles | Other]],
        *,
        fit: Fit = "crop",
        workers: int = 1,
    ) -> Iterator[tuple[Tag, Rows | Other]]:
        """Encode the tiles of many images: ``(tag, tokens int64 [n, *token_shape])``, in order.

        ``workers`` threads read images, and as many run the model on a batch each, with one of
        torch's threads. So all cores are used whether reading or the model is slow. A single batch,
        or a single worker, uses all of torch's threads. A GPU runs several batches at once for any
        number of workers.

        Args:
            items: objects that represent images.
            read: returns the tag and the tiles of an item. Anything else in place of tiles, such
                as an error, is passed on.
            fit: the fit of the images.
            workers: number of threads of each kind.

        >>> from tokcodec.image import Tiles
        >>> def read(number):
        ...     return number, Tiles(np.full((1, 64, 64, 3), number, np.uint8), 128, 128)
        >>> [(tag, tokens.shape) for tag, tokens in codec.encode_stream([5, 7], read)]
        [(5, (1, 8, 8)), (7, (1, 8, 8))]
        """

        def rows(item: T) -> tuple[Tag, Rows | Other]:
            tag, tiles = read(item)
            return tag, tiles.pixels if isinstance(tiles, Tiles) else tiles

        return self._in_batches(
            map_ahead(rows, items, workers, self._ahead(fit, workers)),
            self.encode_tiles,
            lambda _, tokens: tokens,
            workers,
        )

    def decompress(
        self, token_file: Compressed, *, size: OutputSize = None, tokens: int | None = None
    ) -> Image.Image:
        """Decode a token file.

        Args:
            token_file: a ``TokenFile``, the path of one, or its bytes.
            size: width and height of the image, its longer edge, or ``original``. If None, it is
                the original size, but at most 1,024 pixels on the longer edge, or the size that the
                tokens show, if that is larger.
            tokens: use only the first tokens of each tile; all if None.

        Raises:
            TokenFileError: the file cannot be read, is of another model, or does not fit it.
            CheckpointError: the checkpoint does not support this number of tokens.
            ImageError: the image would be above Pillow's decompression bomb limit.
            TypeError, ValueError: ``token_file`` or ``size`` is not valid.

        >>> codec.decompress(token_file, size=100).size
        (100, 67)
        """
        items = [(None, _token_file(token_file))]
        ((_, result),) = self.decompress_stream(items, size=size, tokens=tokens)
        if isinstance(result, TokcodecError):
            raise result
        return result

    def decompress_stream(
        self,
        items: Iterable[tuple[Tag, TokenFile]],
        *,
        size: OutputSize = None,
        tokens: int | None = None,
        workers: int = 1,
    ) -> Iterator[tuple[Tag, Image.Image | TokcodecError]]:
        """Decode many token files: ``(tag, token file)`` in, ``(tag, image)`` out, in order.

        The result of a file that this model cannot decode is its error. For ``workers`` see
        ``encode_stream``, for the other options ``decompress``.

        >>> [(tag, image.size) for tag, image in codec.decompress_stream([("a", token_file)])]
        [('a', (600, 400))]
        """
        decoding = Decoding(self.header, self.runtime, size, tokens)

        def parts() -> Iterator[tuple[tuple[Tag, Canvas | None], Rows | TokcodecError]]:
            for tag, token_file in items:
                try:
                    canvas, found = decoding.open(token_file)
                except TokcodecError as error:
                    yield (tag, None), error
                    continue
                yield from (((tag, canvas), found[n : n + 1]) for n in range(len(found)))

        # Only the parts of a large image that are being decoded are in memory.
        done = self._in_batches(parts(), self.runtime.decode, lambda _, rows: rows[0], workers)
        for (tag, canvas), first in done:
            if isinstance(first, TokcodecError):
                yield tag, first
            else:
                assert canvas
                rest: Iterator[Any] = (part for _, part in islice(done, canvas.num_parts - 1))
                yield tag, to_image(chain([first], rest), canvas)

    def _ahead(self, fit: Fit, workers: int) -> int:
        """The number of images to read ahead: few, if each may have hundreds of tiles."""
        return workers if fit in ("tile", "native") else _BATCHES_AHEAD * self.batch_size

    def _in_batches(
        self,
        items: Iterable[tuple[Tag, Rows | Other]],
        run: Callable[[Rows], Rows],
        finish: Callable[[Tag, Rows], R],
        workers: int,
    ) -> Iterator[tuple[Tag, R | Other]]:
        """Call ``run`` on the rows of many items at once, and ``finish`` on the results of each.

        Items without rows are passed on.
        """

        def work(group: list[tuple[Tag, Rows | Other]]) -> list[tuple[Tag, R | Other]]:
            results: list[Any] = list(group)
            by_shape: dict[tuple[int, ...], list[tuple[int, Tag, Rows]]] = {}
            for index, (tag, rows) in enumerate(group):
                if isinstance(rows, np.ndarray):
                    by_shape.setdefault(rows.shape[1:], []).append((index, tag, rows))
            for alike in by_shape.values():
                done = run(np.concatenate([rows for _, _, rows in alike]))
                for index, tag, rows in alike:
                    results[index] = (tag, finish(tag, done[: len(rows)]))
                    done = done[len(rows) :]
            return results

        groups = _groups(items, self.batch_size)
        for results in self.runtime.map(work, groups, workers):
            yield from results

    # Between pixels and tokens

    @overload
    def encode(self, pixels: Pixels) -> NDArray[np.int64]: ...
    @overload
    def encode(self, pixels: "Tensor") -> "Tensor": ...
    def encode(self, pixels: Any) -> Any:
        """Encode pixels to tokens int64 [B, *token_shape].

        Args:
            pixels: an array uint8 [B, H, W, 3], or a tensor of floats in [0, 1], [B, 3, H, W]. The
                tokens are of the same kind; those of a tensor are on the codec's device. H and W
                are the model's ``image_size``, or multiples of ``config.multiple`` if it takes
                images of any size.

        Raises:
            TypeError: ``pixels`` is not an array or a tensor.
            ValueError: pixels have another shape or type, or are outside of [0, 1].

        >>> import numpy as np
        >>> codec.encode(np.zeros((2, 64, 96, 3), np.uint8)).shape
        (2, 4, 6)
        """
        if not hasattr(pixels, "movedim"):
            _require_pixels(pixels)
            self._check_edges(pixels.shape[1:3])
            return self.runtime.encode(pixels, self.config.preprocessing.pixel_scale)
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(f"expected pixels [B, 3, H, W], not {list(pixels.shape)}")
        self._check_edges(tuple(pixels.shape[2:]))
        _require_unit_range(pixels)
        return self._torch().encode_tensor(pixels)

    @overload
    def decode(self, tokens: Rows) -> Pixels: ...
    @overload
    def decode(self, tokens: "Tensor") -> "Tensor": ...
    def decode(self, tokens: Any) -> Any:
        """Decode tokens [B, *token_shape] to pixels, the inverse of ``encode``.

        Args:
            tokens: an array, for pixels uint8 [B, H, W, 3]; or a tensor, for pixels float32
                [B, 3, H, W] in [0, 1] on the codec's device. They may have any integer type.
                Those of a square grid may be flat, [B, N]. If the model decodes the first n tokens
                alone, also [B, n]; if it takes images of any size, also [B, rows, columns].

        Raises:
            TypeError: ``tokens`` is not an array or a tensor.
            ValueError: tokens are not integers, have another shape, or are outside of the codebook.

        >>> codec.decode(np.zeros((2, 4, 6), np.int64)).shape
        (2, 64, 96, 3)
        """
        is_tensor = hasattr(tokens, "movedim")
        if not is_tensor:
            tokens = check_integers(tokens).astype(np.int64, copy=False)
        elif str(tokens.dtype).removeprefix("torch.").startswith(("int", "uint")):
            tokens = tokens.long()
        else:
            raise ValueError(f"expected tokens of an integer type, not {tokens.dtype}")
        size, side = self.config.quantizer.codebook_size, self.config.preprocessing.image_size
        tile, own = self.config.token_shape(side, side), tuple(tokens.shape[1:])
        if len(own) == 1 and len(tile) == 2:  # of a square
            edge = math.isqrt(own[0])
            if edge * edge == own[0]:
                own = (edge, edge)
                tokens = tokens.reshape(tokens.shape[0], *own)
        first = len(own) == len(tile) == 1 and own[0] in self.config.token_counts
        grid = bool(self.config.multiple) and len(own) == 2 and min(own) > 0
        if not (own == tile or first or grid):
            wanted = f"[B, {', '.join(map(str, tile))}]"
            if self.config.multiple:
                wanted += " or another grid [B, rows, columns]"
            raise ValueError(f"expected tokens {wanted}, not {list(tokens.shape)}")
        if math.prod(tokens.shape) and not (tokens.min() >= 0 and tokens.max() < size):
            raise ValueError(f"tokens must be from 0 to {size - 1:,}")
        return self._torch().decode_tensor(tokens) if is_tensor else self.runtime.decode(tokens)

    def encode_tiles(self, tiles: Pixels) -> Rows:
        """Encode tiles from ``image.read_tiles``, uint8 [n, H, W, 3], to tokens int64
        [n, *token_shape].

        Raises:
            TypeError, ValueError: ``tiles`` are not such pixels.

        >>> codec.encode_tiles(np.zeros((1, 64, 64, 3), np.uint8)).shape
        (1, 8, 8)
        """
        _require_pixels(tiles)
        config = self.config.preprocessing
        return self.runtime.encode(tiles, config.pixel_scale // config.read_scale)

    def _check_edges(self, edges: tuple[int, ...]) -> None:
        side, multiple = self.config.preprocessing.image_size, self.config.multiple
        if edges != (side, side) and not (
            multiple and min(edges) and not any(edge % multiple for edge in edges)
        ):
            wanted = f"multiples of {multiple}" if multiple else f"{side}x{side}"
            raise ValueError(f"expected {wanted} pixels, not {edges[1]}x{edges[0]}")

    def _torch(self) -> "TorchRuntime":
        from tokcodec.model.torch_runtime import TorchRuntime

        if not isinstance(self.runtime, TorchRuntime):
            raise ValueError("tensors need the torch runtime: Codec.load(runtime='torch')")
        return self.runtime


def _source(image: Any) -> Source:
    """What ``image.read_tiles`` takes."""
    if not hasattr(image, "movedim"):  # no tensor; binary files have a ``detach`` too
        source: Source = image
        return source
    if image.ndim == 3:
        if image.shape[0] not in (1, 3, 4):
            raise ValueError(f"expected a tensor uint8 [3, H, W], not {list(image.shape)}")
        image = image.movedim(0, 2)
    pixels: Pixels = image.detach().cpu().numpy()
    return pixels


@dataclass(frozen=True)
class _Reread:
    """A binary file that can be read more than once."""

    name: str
    data: bytes

    def read(self) -> bytes:
        return self.data


def _reread(image: ImageLike) -> ImageLike:
    if isinstance(image, Image.Image) or not hasattr(image, "read"):
        return image
    return _Reread(str(getattr(image, "name", "image")), image.read())


def _token_file(given: Compressed) -> TokenFile:
    """
    Raises:
        TypeError: ``given`` is not a token file, a path or bytes.
    """
    if isinstance(given, TokenFile):
        return given
    if not isinstance(given, str | os.PathLike | bytes):
        raise TypeError(f"expected a TokenFile, a path or bytes, not {type(given).__name__}")
    return TokenFile.from_bytes(given) if isinstance(given, bytes) else TokenFile.load(given)


def _require_pixels(pixels: object) -> None:
    """
    Raises:
        TypeError: ``pixels`` is not an array.
        ValueError: it is not uint8 [B, H, W, 3].
    """
    if not isinstance(pixels, np.ndarray):
        raise TypeError(f"expected pixels in an array, not {type(pixels).__name__}")
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise ValueError(
            f"expected pixels uint8 [B, H, W, 3], not {pixels.dtype} {list(pixels.shape)}"
        )


def _require_unit_range(pixels: "Tensor") -> None:
    """
    Raises:
        ValueError: pixels are not floating-point numbers, or outside of [0, 1].
    """
    if not pixels.is_floating_point():
        raise ValueError(
            f"expected float pixels in [0, 1], not {pixels.dtype}: divide bytes by 255"
        )
    if not pixels.numel():
        return
    least, most = map(float, pixels.detach().aminmax())
    if not (least >= -_ROUNDING and most <= 1 + _ROUNDING):
        raise ValueError(
            f"expected pixels in [0, 1], not from {least:.4g} to {most:.4g}: divide 0 to 255 by "
            "255, and clamp what resizing overshoots"
        )


def _groups(
    items: Iterable[tuple[Tag, Rows | Other]], least: int
) -> Iterator[list[tuple[Tag, Rows | Other]]]:
    """Group consecutive items that have at least ``least`` rows together."""
    group: list[tuple[Tag, Rows | Other]] = []
    count = 0
    for entry in items:
        group.append(entry)
        count += len(entry[1]) if isinstance(entry[1], np.ndarray) else 1
        if count >= least:
            yield group
            group, count = [], 0
    if group:
        yield group
