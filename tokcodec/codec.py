"""``Codec``: images to token files and back, with one checkpoint."""

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from queue import SimpleQueue
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tokcodec import checkpoint
from tokcodec.budget import largest_within
from tokcodec.coding.prior import Prior
from tokcodec.config import DEFAULT_WEIGHTS, ModelConfig
from tokcodec.config.geometry import MAX_TILE_TOKENS, Fit, Placement, Size, place
from tokcodec.errors import CheckpointError, DeviceError, ImageError, TokcodecError, TokenFileError
from tokcodec.image import WHITE, Pixels, Source, Tiles, check_output, read_tiles, size_of, to_image
from tokcodec.model.loading import Dtype, load, resolve_device
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.parallel import map_ahead
from tokcodec.tokenfile import TokenFile, check_tokens

T = TypeVar("T")
R = TypeVar("R")
Tag = TypeVar("Tag")
Other = TypeVar("Other")
Rows = NDArray[Any]

ImageLike = Source | Tensor  # uint8 [3, H, W]; grey ones [H, W] or [1, H, W], with alpha [4, H, W]
Compressed = TokenFile | str | os.PathLike[str] | bytes  # read, or yet to be
_Shown = tuple[Placement, Size]  # where an image lies on its tiles, and its size
_NOTHING: Rows = np.empty(0)

BATCH_SIZE = 16
_CUDA_BATCH_SIZE = 64
_BATCHES_AHEAD = 4  # that images are read for while the model runs
_ROUNDING = 1e-3  # that pixels may be beyond [0, 1] by
BATCHES_AT_ONCE = 4  # on a GPU: while the host waits for one of them, the others are work for it
_CACHE_BYTES = 16 << 20  # of a processor: what the widest activations of a batch should fit in


def default_batch_size(config: ModelConfig, kind: str) -> int:
    """64 tiles on CUDA, else 16; a large model is faster with fewer on a CPU. Depends on the model
    and the kind of device alone: the batch size is part of what decides the tokens."""
    if kind == "cuda":
        return _CUDA_BATCH_SIZE
    tile = 4 * config.encoder.peak_activation(config.preprocessing.model_size)  # float32
    size = BATCH_SIZE
    while kind == "cpu" and size > 1 and size * tile > _CACHE_BYTES:
        size //= 2
    return size


class Codec:
    """Turns images into token files and back.

    Tokens of an image are equal on one device, torch build and ``batch_size``, whatever is
    compressed with it: the model always runs on exactly ``batch_size`` tiles, the last batch
    filled up. In the native fit, where every image may have a shape of its own, it runs on
    ``native_batch_size`` images of one shape.
    """

    def __init__(
        self,
        model: Tokenizer,
        header: checkpoint.Header,
        batch_size: int,
        native_batch_size: int = 1,
        dtype: Dtype = "float32",
    ) -> None:
        self.model = model
        self.header = header
        self.batch_size, self.native_batch_size = batch_size, native_batch_size
        self.dtype: Dtype = dtype
        self.device = next(model.parameters()).device
        self._streams: SimpleQueue[torch.cuda.Stream] | None = None
        if self.device.type == "cuda":
            self._streams = SimpleQueue()
            for _ in range(BATCHES_AT_ONCE):
                self._streams.put(torch.cuda.Stream(self.device))  # type: ignore[no-untyped-call]

    @classmethod
    def load(
        cls,
        weights: str | checkpoint.Header = DEFAULT_WEIGHTS,
        device: str = "auto",
        *,
        batch_size: int | None = None,
        dtype: Dtype = "float32",
        compiled: bool = False,
    ) -> Self:
        """Loads a checkpoint.

        Args:
            weights: a bundled name, a file, a folder with one checkpoint, a model on the hub, or
                a header; a published checkpoint of another program is converted first.
            device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda``, or torch's name of one.
            batch_size: tiles that the model sees at once; ``default_batch_size`` if None, and
                then one image at a time in the native fit.
            dtype: of the matrix products in encoder and decoder (autocast), but for the last before
                the quantizer; some tokens in ``bfloat16`` are not those in ``float32``.
            compiled: the encoder goes through ``torch.compile``.

        Raises:
            CheckpointError: there is none, or it is damaged.
            DeviceError: there is no such device.
        """
        header = checkpoint.find(weights) if isinstance(weights, str) else weights
        model = load(header, resolve_device(device))
        if compiled:
            # Batches have one shape, but for native images; what is for any shape is slower.
            model.encoder.compile(dynamic=None if header.config.multiple else False)
        size = batch_size or default_batch_size(header.config, resolve_device(device).type)
        return cls(model, header, size, batch_size or 1, dtype)

    def __repr__(self) -> str:
        config, side = self.config, self.config.preprocessing.image_size
        return (
            f"<Codec {self.header.name}: {config.num_tokens} tokens of "
            f"{config.quantizer.bits} bits "
            f"for {side}x{side} pixels, {self.dtype} on {self.device}>"
        )

    @property
    def config(self) -> ModelConfig:
        return self.header.config

    # Between images and token files

    def compress(
        self,
        image: ImageLike,
        *,
        fit: Fit | None = None,
        tokens: int | None = None,
        max_bytes: int | None = None,
        text: bool = False,
        background: tuple[int, int, int] = WHITE,
        packed: bool = False,
    ) -> TokenFile:
        """Encode one image.

        Args:
            image: a path, the bytes of an image file, a binary file, a PIL image, or pixels: an
                array uint8 [H, W, 3] or a tensor uint8 [3, H, W]. One channel is grey; of four
                channels the last is alpha.
            fit: ``stretch``, ``crop``, ``pad``, ``tile``, or for a checkpoint of any size
                ``aspect`` or ``native``; the checkpoint's default if None.
            tokens: the most tokens of a tile: of a model of any size those of the grid, of one
                that decodes prefixes the first ones; the checkpoint's default if None.
            max_bytes: take the most tokens whose file has no more bytes.
            text: ``max_bytes`` limits the characters of the file's text instead.
            background: red, green and blue behind transparent parts.
            packed: do not entropy-code the tokens. By default they are entropy-coded if the
                checkpoint has a prior and that makes the file shorter.

        Raises:
            ImageError: the image cannot be read, or its smallest file is above ``max_bytes``.
            CheckpointError: the checkpoint does not support this fit or number of tokens.
            ValueError: pixels of another shape or type, or an unknown fit.
        """
        if max_bytes is not None:
            return self._compress_within(image, max_bytes, text, fit, tokens, background, packed)
        encoding = self._encoding(fit, tokens, background, packed)
        tiles = encoding.read(image)
        return encoding.token_file(tiles, self.encode_tiles(tiles.pixels))

    def _compress_within(
        self,
        image: ImageLike,
        limit: int,
        text: bool,
        fit: Fit | None,
        tokens: int | None,
        background: tuple[int, int, int],
        packed: bool,
    ) -> TokenFile:
        config, fit = self.config, fit or self.config.default_fit
        any_grid = bool(config.multiple) and fit not in ("tile", "native")
        adjustable = any_grid or config.prefix_tokens
        most = tokens or (min(2 * limit, MAX_TILE_TOKENS) if any_grid else config.num_tokens)
        size = size_of(_source(image)) or (1, 1)  # compress refuses what is no image

        def compress(count: int) -> TokenFile:
            given = count if adjustable else None
            return self.compress(image, fit=fit, tokens=given, background=background, packed=packed)

        def tokens_of(count: int) -> int:
            return math.prod(config.place(fit, size, count)[1]) if any_grid else count

        def bytes_of(file: TokenFile) -> int:
            return len(file.to_text()) if text else file.file_bytes

        return largest_within(compress, tokens_of, bytes_of, limit, most if adjustable else 1)

    def compress_stream(
        self,
        items: Iterable[tuple[Tag, ImageLike]],
        *,
        fit: Fit | None = None,
        tokens: int | None = None,
        max_bytes: int | None = None,
        text: bool = False,
        background: tuple[int, int, int] = WHITE,
        packed: bool = False,
        workers: int = 1,
    ) -> Iterator[tuple[Tag, TokenFile | TokcodecError]]:
        """Encode many images: ``(tag, image)`` in, ``(tag, token file)`` out, in the same order.

        The result of an image that cannot be read is its error. A tag is anything that tells
        the caller which image it is. For ``workers`` see ``encode_stream``, for the other options
        ``compress``.
        """
        if max_bytes is not None:

            def compress(item: tuple[Tag, ImageLike]) -> tuple[Tag, TokenFile | TokcodecError]:
                tag, image = item
                try:
                    return tag, self.compress(
                        image,
                        fit=fit,
                        tokens=tokens,
                        max_bytes=max_bytes,
                        text=text,
                        background=background,
                        packed=packed,
                    )
                except ImageError as error:
                    return tag, error

            yield from map_ahead(compress, items, workers, 2 * workers)
            return
        encoding = self._encoding(fit, tokens, background, packed)

        def read(item: tuple[Tag, ImageLike]) -> tuple[tuple[Tag, Tiles | None], Rows | ImageError]:
            tag, image = item
            try:
                tiles = encoding.read(image)
            except ImageError as error:
                return (tag, None), error
            return (tag, replace(tiles, pixels=_NOTHING)), tiles.pixels

        def token_file(of: tuple[Tag, Tiles | None], tokens: Rows) -> TokenFile:
            assert of[1]
            return encoding.token_file(of[1], tokens)

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

        As many threads read, and as many run the model, a batch each, on a single one of torch's
        threads: so every core has work whether reading or the model takes long, and none waits for
        another. A single batch, or a single worker, has all of torch's threads. A GPU has several
        batches at once, whatever ``workers`` is.

        Args:
            items: anything that stands for an image.
            read: returns an item's tag and tiles. What is returned in place of tiles, such as
                an error, is passed on.
            fit: of the images.
            workers: threads of either kind.
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
        self, token_file: Compressed, *, size: Size | int | None = None, tokens: int | None = None
    ) -> Image.Image:
        """Decode a token file.

        Args:
            token_file: a ``TokenFile``, the path of one, or its bytes.
            size: width and height of the image, or its longer edge; its original size if None.
            tokens: use only the first tokens of each tile; all if None.

        Raises:
            TokenFileError: the file cannot be read, is of another model, or does not fit it.
            CheckpointError: the checkpoint does not support this number of tokens.
            ImageError: the image would be above Pillow's decompression bomb limit.
        """
        decoding = self._decoding(size, tokens)
        shown, rows = decoding.open(_token_file(token_file))
        return decoding.image(shown, self._decode_pixels(rows))

    def decompress_stream(
        self,
        items: Iterable[tuple[Tag, TokenFile]],
        *,
        size: Size | int | None = None,
        tokens: int | None = None,
        workers: int = 1,
    ) -> Iterator[tuple[Tag, Image.Image | TokcodecError]]:
        """Decode many token files: ``(tag, token file)`` in, ``(tag, image)`` out, in order.

        The result of a file that this model cannot decode is its error. For ``workers`` see
        ``encode_stream``, for the other options ``decompress``.
        """
        decoding = self._decoding(size, tokens)

        def rows(
            item: tuple[Tag, TokenFile],
        ) -> tuple[tuple[Tag, _Shown | None], Rows | TokcodecError]:
            tag, token_file = item
            try:
                shown, tokens = decoding.open(token_file)
            except TokcodecError as error:
                return (tag, None), error
            return (tag, shown), tokens

        def image(of: tuple[Tag, _Shown | None], pixels: Rows) -> Image.Image:
            assert of[1]
            return decoding.image(of[1], pixels)

        for (tag, _), result in self._in_batches(
            map(rows, items), self._decode_pixels, image, workers
        ):
            yield tag, result

    def _encoding(
        self,
        fit: Fit | None,
        tokens: int | None,
        background: tuple[int, int, int],
        packed: bool,
    ) -> "_Encoding":
        checkpoint.check_token_count(self.header, tokens)
        fit = fit or self.config.default_fit
        checkpoint.check_fit(self.header, fit)
        prior = None
        if self.header.prior_id and not packed:
            prior = checkpoint.read_prior(self.header)
        return _Encoding(self.header, fit, tokens, background, prior)

    def _decoding(self, size: Size | int | None, tokens: int | None) -> "_Decoding":
        if tokens is not None and self.config.multiple:
            raise CheckpointError(f"{self.header.name}: decodes only all tokens of a file together")
        return _Decoding(
            self.header, size, tokens, checkpoint.check_token_count(self.header, tokens)
        )

    def _ahead(self, fit: Fit, workers: int) -> int:
        """Images that are read before the model takes them. A tiled one may hold hundreds of
        tiles: few of them wait in memory."""
        return workers if fit in ("tile", "native") else _BATCHES_AHEAD * self.batch_size

    def _in_batches(
        self,
        items: Iterable[tuple[Tag, Rows | Other]],
        run: Callable[[Rows], Rows],
        finish: Callable[[Tag, Rows], R],
        workers: int,
    ) -> Iterator[tuple[Tag, R | Other]]:
        """What ``finish`` makes of each item's results of ``run``, which is given the rows of many
        items at once. What is no array is passed on."""

        def work(group: list[tuple[Tag, Rows | Other]]) -> list[tuple[Tag, R | Other]]:
            results: list[tuple[Tag, R | Other]] = []
            parts = [rows for _, rows in group if isinstance(rows, np.ndarray)]
            done = run(np.concatenate(parts)) if parts else _NOTHING
            for tag, rows in group:
                if isinstance(rows, np.ndarray):
                    results.append((tag, finish(tag, done[: len(rows)])))
                    done = done[len(rows) :]
                else:
                    results.append((tag, rows))
            return results

        return _on_workers(_groups(items, self.batch_size), work, self._threads(workers))

    # Between tensors and tokens

    def encode(self, pixels: Tensor) -> Tensor:
        """float32 [B, 3, S, S] in [0, 1] -> tokens int64 [B, *token_shape], on the codec's device.

        Where the checkpoint has a native fit, also [B, 3, H, W] of multiples of
        ``config.multiple``. Where the model sees smaller tiles, they are averaged down to these.

        Raises:
            ValueError: another shape or type, or beyond [0, 1].
        """
        side, multiple = self.config.preprocessing.image_size, self.config.multiple
        shape = tuple(pixels.shape[2:])
        if (
            pixels.ndim != 4
            or pixels.shape[1] != 3
            or not (
                shape == (side, side) or (multiple and not any(edge % multiple for edge in shape))
            )
        ):
            raise ValueError(f"expected pixels [B, 3, {side}, {side}], not {list(pixels.shape)}")
        _require_unit_range(pixels)
        return self._run(
            lambda pixels: self.model.encode(self.model.shrink(pixels)),
            pixels.to(self.device, torch.float32),
            shape == (side, side),
        )

    def encode_tiles(self, tiles: Pixels) -> Rows:
        """Tokens int64 [n, *token_shape] of tiles as ``image.read_tiles`` gives them, uint8
        [n, S, S, 3], or in the native fit of one shape; they cross to the device as bytes."""
        rows = torch.from_numpy(tiles if tiles.flags.writeable else tiles.copy())
        if self.device.type == "cuda":
            rows = rows.pin_memory()
        size = self.config.preprocessing.read_size
        with self._at_once():
            tokens = self._run(
                lambda part: self.model.encode(self.preprocess(part)),
                rows.to(self.device, non_blocking=True),
                tiles.shape[1:3] == (size, size),
            )
            return tokens.cpu().numpy()

    def preprocess(self, tiles: Tensor) -> Tensor:
        """Tiles, uint8 [B, S, S, 3], as the model sees them: float32 [B, 3, s, s] in [0, 1]."""
        pixels = tiles.permute(0, 3, 1, 2).float() / 255
        return pixels if self.config.preprocessing.read_scale > 1 else self.model.shrink(pixels)

    def to_uint8(self, pixels: Tensor) -> Tensor:
        """What the model decodes, float32 [B, 3, S, S] in [0, 1], as uint8 [B, S, S, 3]."""
        pixels = pixels * 255
        if self.config.rounding == "nearest":
            pixels = pixels.round()
        return pixels.to(torch.uint8).permute(0, 2, 3, 1)

    def decode(self, tokens: Tensor) -> Tensor:
        """tokens int64 [B, *token_shape] -> float32 [B, 3, H, W] in [0, 1], on the codec's device.

        Fewer tokens, [B, n], where the checkpoint has ``prefix_tokens``; another grid, [B, rows,
        columns], where it takes images of any size.

        Raises:
            ValueError: another shape, or a token outside the codebook.
        """
        size, side = self.config.quantizer.codebook_size, self.config.preprocessing.image_size
        tile = self.config.token_shape(side, side)
        own = tuple(tokens.shape[1:])
        prefix = self.config.prefix_tokens and len(own) == 1 and 1 <= own[0] <= tile[0]
        grid = bool(self.config.multiple) and len(own) == 2 and min(own) > 0
        if not (own == tile or prefix or grid):
            raise ValueError(f"expected tokens {['B', *tile]}, not {list(tokens.shape)}")
        tokens = tokens.to(torch.int64)
        if tokens.numel() and not (int(tokens.min()) >= 0 and int(tokens.max()) < size):
            raise ValueError(f"tokens must be from 0 to {size - 1}")
        return self._run(self.model.decode, tokens.to(self.device), own == tile)

    @torch.inference_mode()
    def _run(self, model: Callable[[Tensor], Tensor], rows: Tensor, tiles: bool) -> Tensor:
        """``model`` on exactly ``batch_size`` rows at a time; the last batch is filled up.

        Raises:
            DeviceError: the device has too little memory for a batch.
        """
        if not len(rows):
            # Nothing to compute, but the caller wants the shape that something would have.
            return model(rows.new_zeros((1, *rows.shape[1:])))[:0]
        size = self.batch_size if tiles else self.native_batch_size
        results = []
        low = self.dtype == "bfloat16"
        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
                for part in torch.split(rows, size):
                    missing = size - len(part)
                    if missing:
                        filled = torch.cat([part, part[:1].expand(missing, *part.shape[1:])])
                    results.append(model(filled if missing else part)[: len(part)])
            return torch.cat(results)
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"{self.device}: not enough memory for batches of {size} tiles; use a smaller "
                "batch size"
            ) from error

    def _decode_pixels(self, tokens: Rows) -> Rows:
        with self._at_once():
            pixels = self.decode(torch.from_numpy(tokens))
            return self.to_uint8(pixels).cpu().numpy()

    @contextlib.contextmanager
    def _at_once(self) -> Iterator[None]:
        """Work that begins and ends on the host. On a GPU it has a stream of its own as long as it
        takes, and waits until one is free, as there is memory for so many batches only."""
        if self._streams is None:
            yield
            return
        stream = self._streams.get()
        try:
            stream.wait_stream(torch.cuda.default_stream(self.device))  # for the weights
            with torch.cuda.stream(stream):
                yield
        finally:
            self._streams.put(stream)

    def _threads(self, workers: int) -> int:
        """That run the model, a batch each."""
        return workers if self.device.type == "cpu" else BATCHES_AT_ONCE


@dataclass(frozen=True)
class _Encoding:
    """How images become token files."""

    header: checkpoint.Header
    fit: Fit
    tokens: int | None
    background: tuple[int, int, int]
    prior: Prior | None

    def read(self, image: ImageLike) -> Tiles:
        config = self.header.config
        return read_tiles(
            _source(image),
            config.preprocessing,
            lambda size: config.place(self.fit, size, self.tokens)[0],
            self.background,
        )

    def token_file(self, tiles: Tiles, tokens: Rows) -> TokenFile:
        config = self.header.config
        kept = tokens[:, : self.tokens] if config.prefix_tokens else tokens
        if config.has_grid:
            _, shape = config.place(self.fit, (tiles.width, tiles.height), self.tokens)
            kept = kept.reshape(-1, *shape)
        return TokenFile.of(self.header, kept, tiles.width, tiles.height, self.fit, self.prior)


@dataclass(frozen=True)
class _Decoding:
    """How token files become images; ``tokens`` asked for, and ``used``, of each tile."""

    header: checkpoint.Header
    size: Size | int | None
    tokens: int | None
    used: int

    def open(self, token_file: TokenFile) -> tuple["_Shown", Rows]:
        """Where the image lies on its tiles, and the tokens of these, [n, *token_shape].

        Raises:
            TokenFileError: the model cannot decode it.
            ImageError: the image would be too large.
        """
        config = self.header.config
        placement, shape = self._check(token_file)
        output = output_size(token_file, self.size) or placement.output
        check_output(output)
        found = token_file.tokens_with(self.header).reshape(placement.num_tiles, -1)
        check_tokens(found, config.quantizer.codebook_size)
        if self.tokens and found.shape[1] < self.tokens:
            raise TokenFileError(f"it holds {found.shape[1]} tokens a tile, not {self.tokens}")
        found = found[:, : self.used] if len(shape) == 1 else found.reshape(-1, *shape)
        return (placement, output), found

    def image(self, shown: "_Shown", pixels: Rows) -> Image.Image:
        return to_image(pixels, *shown)

    def _check(self, token_file: TokenFile) -> tuple[Placement, tuple[int, ...]]:
        header, config = self.header, self.header.config
        if not header.decodes(token_file.model_id):
            raise TokenFileError(_other_model(header, token_file))
        checkpoint.check_fit(header, token_file.fit)
        original = (token_file.width, token_file.height)
        try:
            placement, shape = config.place_grid(
                token_file.fit, original, token_file.rows, token_file.columns
            )
        except ImageError as error:
            raise TokenFileError(f"damaged: {error}") from error
        if (token_file.bits, token_file.tiles) != (config.quantizer.bits, placement.grid[::-1]):
            raise TokenFileError(
                f"damaged: {token_file.tiles} tiles of tokens of {token_file.bits} bits, where "
                f"{header.name} has {placement.grid[::-1]} of {config.quantizer.bits} bits"
            )
        return placement, shape


def _other_model(header: checkpoint.Header, token_file: TokenFile) -> str:
    fitting = checkpoint.find_by_model_id(token_file.model_id)
    remedy = "no bundled or cached one fits"
    if fitting:
        name = fitting.path if checkpoint.is_cached(fitting) else fitting.name
        remedy = f"{name} decodes it"
    return (
        f"its tokens are of model {token_file.model_id.hex()}, "
        f"{header.name} is {header.model_id[:8]}; {remedy}"
    )


def output_size(token_file: TokenFile, size: Size | int | None) -> Size | None:
    """Width and height of the decoded image if ``size`` is asked for: both, or the longer edge."""
    if not isinstance(size, int):
        return size
    if token_file.fit == "crop":
        return size, size
    # The rule of the pad fit: the longer edge as asked for, the other rounded half up.
    return place("pad", (token_file.width, token_file.height), (size, size)).resized


def _source(image: ImageLike) -> Source:
    """What ``image.read_tiles`` takes."""
    if not isinstance(image, Tensor):
        return image
    if image.ndim == 3:
        if image.shape[0] not in (1, 3, 4):
            raise ValueError(f"expected a tensor uint8 [3, H, W], not {list(image.shape)}")
        image = image.movedim(0, 2)
    pixels: Pixels = image.detach().cpu().numpy()
    return pixels


def _token_file(given: Compressed) -> TokenFile:
    if isinstance(given, TokenFile):
        return given
    return TokenFile.from_bytes(given) if isinstance(given, bytes) else TokenFile.load(given)


def _require_unit_range(pixels: Tensor) -> None:
    """
    Raises:
        ValueError: not floating point, or beyond [0, 1].
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
    """As many items as have ``least`` rows together, all of one shape, in order."""
    group: list[tuple[Tag, Rows | Other]] = []
    count = 0
    shape: tuple[int, ...] = ()  # of a row, where there is one
    for entry in items:
        rows = entry[1]
        if isinstance(rows, np.ndarray):
            if count and rows.shape[1:] != shape:
                yield group
                group, count = [], 0
            shape = rows.shape[1:]
            count += len(rows)
        group.append(entry)
        if count >= least or len(group) >= least:
            yield group
            group, count = [], 0
    if group:
        yield group


def _on_workers(chunks: Iterator[T], work: Callable[[T], list[R]], workers: int) -> Iterator[R]:
    """What ``work`` makes of each chunk, in order, in threads that have one of torch's each."""
    begun = list(islice(chunks, 2)) if workers > 1 else []
    if len(begun) < 2:
        for chunk in chain(begun, chunks):
            yield from work(chunk)
        return
    threads = torch.get_num_threads()
    try:
        for results in map_ahead(
            work,
            chain(begun, chunks),
            workers,
            2 * workers,
            lambda: torch.set_num_threads(1),
            at_once=True,
        ):
            yield from results
    finally:
        torch.set_num_threads(threads)  # of threads that begin from here on
