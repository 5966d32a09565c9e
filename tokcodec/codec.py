"""``Codec``: images to token files and back, with one checkpoint."""

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from queue import SimpleQueue
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tokcodec import checkpoint
from tokcodec.config import DEFAULT_WEIGHTS, ModelConfig
from tokcodec.config.geometry import Fit, Placement, Size
from tokcodec.errors import CheckpointError, DeviceError, ImageError, TokcodecError, TokenFileError
from tokcodec.image import WHITE, Pixels, Source, Tiles, check_output, read_tiles, to_image
from tokcodec.model.loading import Dtype, load, resolve_device
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.parallel import map_ahead
from tokcodec.tokenfile import TokenFile, check_tokens

T = TypeVar("T")
R = TypeVar("R")
Rows = NDArray[Any]

ImageLike = Source | Tensor  # uint8 [3, H, W]; grey ones [H, W] or [1, H, W], with alpha [4, H, W]
Compressed = TokenFile | str | os.PathLike[str] | bytes  # read, or yet to be
Decoded = tuple[Pixels, Placement, Size | None]  # what ``image.to_image`` takes
_Item = tuple[Placement, Size | None]
_NOTHING: Rows = np.empty(0)  # rows of an image that could not be read

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
        fit: Fit | None = None,
        background: tuple[int, int, int] = WHITE,
        tokens: int | None = None,
        entropy_coded: bool = False,
    ) -> TokenFile:
        """One image -> its token file.

        Args:
            image: a path, the bytes of an image file, a binary file, a PIL image, or its pixels:
                an array uint8 [H, W, 3] or a tensor uint8 [3, H, W]; of either also one channel,
                which is grey, or four, of which the last is alpha.
            fit: ``stretch``, ``crop``, ``pad``, ``tile``, or where the checkpoint is
                convolutional ``native``; the checkpoint's default if None.
            background: red, green and blue that show through transparent parts.
            tokens: tokens kept of each square, the first ones; all if None.
            coded: the tokens are entropy-coded with the checkpoint's prior: shorter files, which
                cannot be read without it.

        Raises:
            ImageError: the image cannot be read.
            CheckpointError: the checkpoint cannot do with this number of tokens, or has no prior or
                no such fit.
            ValueError: pixels of another shape or type; no such fit at all.
        """
        return self.compress_batch([image], fit, background, tokens, entropy_coded)[0]

    def compress_batch(
        self,
        images: Iterable[ImageLike],
        fit: Fit | None = None,
        background: tuple[int, int, int] = WHITE,
        tokens: int | None = None,
        entropy_coded: bool = False,
    ) -> list[TokenFile]:
        """Like ``compress``, of many; raises the first error."""
        results = self.compress_stream(images, fit, background, tokens, entropy_coded)
        return [_raised(result) for result in results]

    def compress_stream(
        self,
        images: Iterable[ImageLike],
        fit: Fit | None = None,
        background: tuple[int, int, int] = WHITE,
        tokens: int | None = None,
        entropy_coded: bool = False,
        workers: int = 1,
    ) -> Iterator[TokenFile | TokcodecError]:
        """Token files in the order of ``images``; for a bad image, its error in that place.

        ``workers`` as of ``encode_stream``.
        """
        checkpoint.check_token_count(self.header, tokens)
        kept = tokens if self.config.prefix_tokens else None  # others are kept whole
        prior = checkpoint.read_prior(self.header) if entropy_coded else None
        fit = fit or self.config.default_fit
        checkpoint.check_fit(self.header, fit)

        def read(given: ImageLike) -> Tiles | ImageError:
            try:
                return read_tiles(
                    _source(given),
                    self.config.preprocessing,
                    lambda size: self.config.place(fit, size, tokens)[0],
                    background,
                )
            except ImageError as error:
                return error

        for image, rows in self.encode_stream(images, read, workers, fit):
            if isinstance(image, ImageError):
                yield image
                continue
            width, height = image.width, image.height
            yield TokenFile.of(self.header, rows[:, :kept], width, height, fit, prior)

    def encode_stream(
        self, items: Iterable[T], read: Callable[[T], R], workers: int = 1, fit: Fit = "crop"
    ) -> Iterator[tuple[R, Rows]]:
        """What ``read`` makes of each item, in order, and tokens int64 [n, N] of its n tiles.

        Where that is no ``Tiles``, but an error, it goes through; ``Tiles`` come without
        their pixels.

        As many threads read, and as many run the model, a batch each, on a single one of torch's
        threads: so every core has work whether it is reading or the model that takes long, and
        none waits for another. A single batch, or a single worker, has all of torch's threads. A
        GPU has several batches at once, whatever ``workers`` is.

        Args:
            items: anything that stands for an image.
            read: gives an image's tiles.
            workers: threads of either kind, or of readers alone.
            fit: of the images.
        """
        # A tiled image may hold hundreds of tiles: few of them wait in memory.
        ahead = workers if fit in ("tile", "native") else _BATCHES_AHEAD * self.batch_size
        images = map_ahead(read, items, workers, ahead)
        rows = ((p, p.pixels if isinstance(p, Tiles) else _NOTHING) for p in images)

        def work(group: list[tuple[R, Rows]]) -> list[tuple[R, Rows]]:
            results = _run_group(group, self.encode_tiles)
            return [(_without_pixels(image), tokens) for image, tokens in results]

        return _on_workers(_groups(rows, self.batch_size), work, self._threads(workers))

    def decompress(
        self, token_file: Compressed, size: Size | None = None, tokens: int | None = None
    ) -> Image.Image:
        """A token file -> its image, at its original size or at ``size`` (width, height).

        Args:
            token_file: it, its path, or its bytes.
            size: width and height of the image.
            tokens: tokens used of each square, the first ones; all if None.

        Raises:
            TokenFileError: it cannot be read, was written by another model, or its tokens do not
                fit this one.
            CheckpointError: the checkpoint cannot do with this number of tokens.
            ImageError: the image would be above Pillow's decompression bomb limit.
        """
        return self.decompress_batch([token_file], size, tokens)[0]

    def decompress_batch(
        self,
        token_files: Iterable[Compressed],
        size: Size | None = None,
        tokens: int | None = None,
    ) -> list[Image.Image]:
        """Like ``decompress``, of many; raises the first error."""
        items = ((_token_file(given), size) for given in token_files)
        return [_raised(result) for result in self.decompress_stream(items, tokens)]

    def decompress_stream(
        self,
        items: Iterable[tuple[TokenFile, Size | None]],
        tokens: int | None = None,
        workers: int = 1,
    ) -> Iterator[Image.Image | TokcodecError]:
        """Images of (token file, size) pairs, in order; for a misfit, its error in that place.

        ``workers`` as of ``encode_stream``.
        """
        for decoded in self.decode_stream(items, tokens, workers):
            yield decoded if isinstance(decoded, TokcodecError) else to_image(*decoded)

    def decode_stream(
        self,
        items: Iterable[tuple[TokenFile, Size | None]],
        tokens: int | None = None,
        workers: int = 1,
    ) -> Iterator[Decoded | TokcodecError]:
        """As ``decompress_stream``, but tiles that are yet to be put together by
        ``image.to_image``, whose work can so be done elsewhere."""
        if tokens is not None and self.config.multiple:
            raise CheckpointError(f"{self.header.name}: decodes only all tokens of a file together")
        wanted = checkpoint.check_token_count(self.header, tokens)

        def rows(item: tuple[TokenFile, Size | None]) -> tuple[_Item | TokcodecError, Rows]:
            token_file, size = item
            try:
                placement, shape = self._check(token_file, size)
                found = token_file.tokens_with(self.header).reshape(placement.num_tiles, -1)
                check_tokens(found, self.config.quantizer.codebook_size)
                if tokens and found.shape[1] < tokens:
                    raise TokenFileError(f"it holds {found.shape[1]} tokens a tile, not {tokens}")
                found = found[:, :wanted] if len(shape) == 1 else found.reshape(-1, *shape)
            except TokcodecError as error:
                return error, _NOTHING
            return (placement, size), found

        def work(group: list[tuple[_Item | TokcodecError, Rows]]) -> list[Decoded | TokcodecError]:
            return [
                item if isinstance(item, TokcodecError) else (pixels, *item)
                for item, pixels in _run_group(group, self._decode_pixels)
            ]

        groups = _groups(map(rows, items), self.batch_size)
        return _on_workers(groups, work, self._threads(workers))

    def _check(self, token_file: TokenFile, size: Size | None) -> tuple[Placement, tuple[int, ...]]:
        """Refuses what this model cannot decode; gives the placement and the shape of the tokens of
        a square."""
        if not self.header.decodes(token_file.model_id):
            fitting = checkpoint.find_by_model_id(token_file.model_id)
            remedy = "no bundled or cached one fits"
            if fitting:
                name = fitting.path if checkpoint.is_cached(fitting) else fitting.name
                remedy = f"{name} decodes it"
            raise TokenFileError(
                f"its tokens are of model {token_file.model_id.hex()}, "
                f"{self.header.name} is {self.header.model_id[:8]}; {remedy}"
            )
        config, fit = self.config, token_file.fit
        checkpoint.check_fit(self.header, fit)
        tokens = token_file.num_tokens if fit != "tile" else None
        placement, shape = config.place(fit, (token_file.width, token_file.height), tokens)
        expected = math.prod(shape)
        count, rest = divmod(token_file.num_tokens, placement.num_tiles)
        fits = count == expected or (config.prefix_tokens and count < expected)
        if token_file.bits != config.quantizer.bits or rest or not fits:
            raise TokenFileError(
                f"damaged: {token_file.num_tokens} tokens of {token_file.bits} bits where "
                f"{self.header.name} has {placement.num_tiles * expected} of "
                f"{config.quantizer.bits}"
            )
        check_output(size or placement.output)
        return placement, shape

    # Between tensors and tokens

    def encode(self, pixels: Tensor) -> Tensor:
        """float32 [B, 3, S, S] in [0, 1], any B -> tokens int64 [B, N], on the codec's device.

        Where the checkpoint has a native fit, also [B, 3, H, W] of multiples of
        ``config.multiple``; tokens then stand row by row. Where the model sees smaller tiles,
        they are averaged down to these.

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
            lambda pixels: self._tokens(self.model.shrink(pixels)),
            pixels.to(self.device, torch.float32),
            shape == (side, side),
        )

    def encode_tiles(self, tiles: Pixels) -> Rows:
        """Tokens int64 [n, N] of tiles as ``image.read_tiles`` gives them, uint8
        [n, S, S, 3], or in the native fit of one shape; they cross to the device as bytes."""
        rows = torch.from_numpy(tiles if tiles.flags.writeable else tiles.copy())
        if self.device.type == "cuda":
            rows = rows.pin_memory()
        size = self.config.preprocessing.read_size
        with self._at_once():
            tokens = self._run(
                lambda part: self._tokens(self.preprocess(part)),
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

    def _tokens(self, pixels: Tensor) -> Tensor:
        return self.model.encode(pixels).flatten(1)

    def decode(self, tokens: Tensor, shape: tuple[int, int] | None = None) -> Tensor:
        """tokens int64 [B, N], any B -> float32 [B, 3, S, S] in [0, 1], on the codec's device.

        Fewer tokens than N where the checkpoint has ``prefix_tokens``.

        Args:
            tokens: of tiles, or of images of one shape in the native fit.
            shape: rows and columns of these; a square's if None.

        Raises:
            ValueError: another shape, or a token outside the codebook.
        """
        size, side = self.config.quantizer.codebook_size, self.config.preprocessing.image_size
        tile = self.config.token_shape(side, side)
        if shape and not self.config.multiple:
            raise ValueError(f"{self.header.name} has no native fit: leave shape out")
        own = shape or tile
        count = math.prod(own)
        least = 1 if self.config.prefix_tokens else count
        if tokens.ndim != 2 or not least <= tokens.shape[1] <= count:
            raise ValueError(f"expected tokens [B, {count}], not {list(tokens.shape)}")
        tokens = tokens.to(torch.int64)
        if tokens.numel() and not (int(tokens.min()) >= 0 and int(tokens.max()) < size):
            raise ValueError(f"tokens must be from 0 to {size - 1}")
        tokens = tokens.to(self.device)
        if len(own) == 2:
            tokens = tokens.view(-1, *own)
        return self._run(self.model.decode, tokens, own == tile)

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
        shape = tokens.shape[1:] if tokens.ndim == 3 and self.config.multiple else None
        with self._at_once():
            pixels = self.decode(torch.from_numpy(tokens).flatten(1), shape)
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


def _groups(items: Iterable[tuple[T, Rows]], least: int) -> Iterator[list[tuple[T, Rows]]]:
    """As many items as have ``least`` rows together, all of one shape, in order."""
    group: list[tuple[T, Rows]] = []
    count = 0
    shape: tuple[int, ...] = ()  # of a row, where there is one
    for entry in items:
        rows = entry[1]
        if len(rows):
            if count and rows.shape[1:] != shape:
                yield group
                group, count = [], 0
            shape = rows.shape[1:]
        group.append(entry)
        count += len(rows)
        if count >= least or len(group) >= least:
            yield group
            group, count = [], 0
    if group:
        yield group


def _run_group(
    group: list[tuple[T, Rows]], run: Callable[[Rows], Rows]
) -> Iterator[tuple[T, Rows]]:
    """Runs ``run`` on all rows at once, and gives each item its own results."""
    parts = [rows for _, rows in group if len(rows)]
    results = run(np.concatenate(parts)) if parts else _NOTHING
    start = 0
    for item, rows in group:
        yield item, results[start : start + len(rows)]
        start += len(rows)


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


def _without_pixels(image: R) -> R:
    return replace(image, pixels=_NOTHING) if isinstance(image, Tiles) else image


def _raised(result: T | TokcodecError) -> T:
    if isinstance(result, TokcodecError):
        raise result
    return result
