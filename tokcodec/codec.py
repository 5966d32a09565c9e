"""``Codec``: pictures to token files and back, with one checkpoint."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tokcodec import checkpoint
from tokcodec.config import DEFAULT_WEIGHTS, Fit, ModelConfig
from tokcodec.convert.weights import find
from tokcodec.errors import PictureError, TokcodecError, TokenFileError
from tokcodec.geometry import Size, place
from tokcodec.model.loading import Dtype, load, resolve_device
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.parallel import map_ahead
from tokcodec.picture import WHITE, Source, Squares, check_output, read_squares, to_image
from tokcodec.tokenfile import TokenFile, check_codes

T = TypeVar("T")
P = TypeVar("P", bound=Squares | TokcodecError)
Rows = NDArray[Any]

BATCH_SIZE = 16
_CACHE_BYTES = 16 << 20  # of a processor: what the widest activations of a batch should fit in


def default_batch_size(config: ModelConfig, device: torch.device) -> int:
    """16 squares; on a CPU fewer of a large model, which is faster so. Depends on nothing else."""
    part = config.encoder
    tokens = config.grid(part) ** 2 + config.num_latents
    square = 4 * tokens * round(part.width * part.mlp_ratio)  # float32, between an MLP's layers
    size = BATCH_SIZE
    while device.type == "cpu" and size > 1 and size * square > _CACHE_BYTES:
        size //= 2
    return size


class Codec:
    """Turns pictures into token files and back.

    Codes of a picture are equal on one device, torch build and ``batch_size``, whatever is
    compressed with it: the model always runs on exactly ``batch_size`` squares, the last batch
    filled up.
    """

    def __init__(
        self,
        model: Tokenizer,
        header: checkpoint.Header,
        batch_size: int,
        dtype: Dtype = "float32",
    ) -> None:
        self.model = model
        self.header = header
        self.batch_size = batch_size
        self.dtype: Dtype = dtype
        self.device = next(model.parameters()).device

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
            batch_size: squares that the model sees at once; ``default_batch_size`` if None.
            dtype: of the encoder's matrix products (autocast); codes in ``bfloat16`` are not those
                in ``float32``.
            compiled: the encoder goes through ``torch.compile``.

        Raises:
            CheckpointError: there is none, or it is damaged.
            DeviceError: there is no such device.
        """
        header = find(weights) if isinstance(weights, str) else weights
        model = load(header, resolve_device(device))
        if compiled:
            model.encoder.compile()
        size = batch_size or default_batch_size(header.config, resolve_device(device))
        return cls(model, header, size, dtype)

    @property
    def config(self) -> ModelConfig:
        return self.header.config

    @property
    def _group(self) -> int:
        # Several batches, so that the filled-up one behind pictures of many squares costs little.
        return 4 * self.batch_size

    # Between pictures and token files

    def compress(
        self,
        image: Source,
        fit: Fit | None = None,
        background: tuple[int, int, int] = WHITE,
        tokens: int | None = None,
        coded: bool = False,
    ) -> TokenFile:
        """One picture (PIL image, path or binary file) -> its token file.

        Args:
            fit: ``stretch``, ``crop``, ``pad`` or ``tile``; the checkpoint's default if None.
            background: red, green and blue that show through transparent parts.
            tokens: codes kept of each square, the first ones; all if None.
            coded: the codes are entropy-coded with the checkpoint's prior: shorter files, which
                cannot be read without it.

        Raises:
            PictureError: the picture cannot be read.
            CheckpointError: the checkpoint cannot do with this number of codes, or has no prior.
        """
        return self.compress_batch([image], fit, background, tokens, coded)[0]

    def compress_batch(
        self,
        images: Iterable[Source],
        fit: Fit | None = None,
        background: tuple[int, int, int] = WHITE,
        tokens: int | None = None,
        coded: bool = False,
    ) -> list[TokenFile]:
        """Like ``compress``, of many; raises the first error."""
        results = self.compress_stream(images, fit, background, tokens, coded)
        return [_raised(result) for result in results]

    def compress_stream(
        self,
        images: Iterable[Source],
        fit: Fit | None = None,
        background: tuple[int, int, int] = WHITE,
        tokens: int | None = None,
        coded: bool = False,
        workers: int = 1,
    ) -> Iterator[TokenFile | TokcodecError]:
        """Token files in the order of ``images``; for a bad picture, its error in that place.

        ``workers`` threads read pictures while the model runs.
        """
        tokens = checkpoint.check_tokens(self.header, tokens)
        prior = checkpoint.read_prior(self.header) if coded else None
        fit = fit or self.config.default_fit

        def read(image: Source) -> Squares | PictureError:
            try:
                return read_squares(image, self.config.preprocessing, fit, background)
            except PictureError as error:
                return error

        # A tiled picture may hold hundreds of squares: few of them wait in memory.
        ahead = workers if fit == "tile" else self._group
        for picture, codes in self.encode_stream(map_ahead(read, images, workers, ahead)):
            if isinstance(picture, PictureError):
                yield picture
                continue
            yield TokenFile(
                codes[:, :tokens].reshape(-1),
                self.config.quantizer.bits,
                bytes.fromhex(self.header.code_id[:8]),
                picture.width,
                picture.height,
                fit,
                prior,
            )

    def encode_stream(self, pictures: Iterable[P]) -> Iterator[tuple[P, Rows]]:
        """Codes int64 [n, N] of the n squares of each picture, in order; errors go through."""
        side = self.config.preprocessing.image_size
        empty = np.empty((0, side, side, 3), np.uint8)
        rows = ((p, p.pixels if isinstance(p, Squares) else empty) for p in pictures)
        return _in_groups(rows, self._group, self._encode_pixels)

    def decompress(
        self, token_file: TokenFile, size: Size | None = None, tokens: int | None = None
    ) -> Image.Image:
        """A token file -> its picture, at its original size or at ``size`` (width, height).

        Args:
            size: width and height of the picture.
            tokens: codes used of each square, the first ones; all if None.

        Raises:
            TokenFileError: it was written by another model, or its codes do not fit this one.
            CheckpointError: the checkpoint cannot do with this number of codes.
            PictureError: the picture would be above Pillow's decompression bomb limit.
        """
        return self.decompress_batch([token_file], size, tokens)[0]

    def decompress_batch(
        self,
        token_files: Iterable[TokenFile],
        size: Size | None = None,
        tokens: int | None = None,
    ) -> list[Image.Image]:
        """Like ``decompress``, of many; raises the first error."""
        items = ((token_file, size) for token_file in token_files)
        return [_raised(result) for result in self.decompress_stream(items, tokens)]

    def decompress_stream(
        self, items: Iterable[tuple[TokenFile, Size | None]], tokens: int | None = None
    ) -> Iterator[Image.Image | TokcodecError]:
        """Pictures of (token file, size) pairs, in order; for a misfit, its error in that place."""
        wanted = checkpoint.check_tokens(self.header, tokens)
        empty = np.empty((0, wanted), np.int64)

        def rows(
            item: tuple[TokenFile, Size | None],
        ) -> tuple[tuple[TokenFile, Size | None] | TokcodecError, Rows]:
            try:
                num_squares = self._check(*item)
                codes = item[0].codes.reshape(num_squares, -1)
                if tokens and codes.shape[1] < tokens:
                    raise TokenFileError(f"it holds {codes.shape[1]} codes a square, not {tokens}")
                return item, codes[:, :wanted]
            except TokcodecError as error:
                return error, empty

        for item, pixels in _in_groups(map(rows, items), self._group, self._decode_pixels):
            if isinstance(item, TokcodecError):
                yield item
                continue
            token_file, size = item
            yield to_image(pixels, token_file.fit, token_file.width, token_file.height, size)

    def _check(self, token_file: TokenFile, size: Size | None) -> int:
        """Refuses what this model cannot decode; gives the number of squares."""
        own = self.header.code_id[:8]
        if token_file.code_id.hex() != own:
            fitting = checkpoint.find_by_code_id(token_file.code_id)
            remedy = (
                f"decode it with --weights {fitting.path if fitting.is_cached else fitting.name}"
                if fitting
                else "no bundled or cached one fits"
            )
            raise TokenFileError(
                f"its codes are of model {token_file.code_id.hex()}, "
                f"{self.header.name} is {own}; {remedy}"
            )
        side = self.config.preprocessing.image_size
        placement = place(token_file.fit, token_file.width, token_file.height, side)
        expected = placement.num_squares * self.config.num_codes
        count, rest = divmod(len(token_file.codes), placement.num_squares)
        fits = count == self.config.num_codes or (
            self.config.prefix_codes and count < self.config.num_codes
        )
        if token_file.bits != self.config.quantizer.bits or rest or not fits:
            raise TokenFileError(
                f"damaged: {len(token_file.codes)} codes of {token_file.bits} bits where "
                f"{self.header.name} has {expected} of {self.config.quantizer.bits}"
            )
        check_codes(token_file.codes, self.config.quantizer.codebook_size)
        check_output(size or placement.output)
        return placement.num_squares

    # Between tensors and codes

    def encode(self, pixels: Tensor) -> Tensor:
        """float32 [B, 3, S, S] in [0, 1], any B -> codes int64 [B, N], on the codec's device.

        Raises:
            ValueError: another shape.
        """
        side = self.config.preprocessing.image_size
        if pixels.ndim != 4 or pixels.shape[1:] != (3, side, side):
            raise ValueError(f"expected pixels [B, 3, {side}, {side}], not {list(pixels.shape)}")
        low = self.dtype == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            return self._run(self.model.encode, pixels.to(self.device, torch.float32))

    def decode(self, codes: Tensor) -> Tensor:
        """codes int64 [B, N], any B -> float32 [B, 3, S, S] in [0, 1], on the codec's device.

        Fewer codes than N where the checkpoint has ``prefix_codes``.

        Raises:
            ValueError: another shape, or a code outside the codebook.
        """
        count, size = self.config.num_codes, self.config.quantizer.codebook_size
        least = 1 if self.config.prefix_codes else count
        if codes.ndim != 2 or not least <= codes.shape[1] <= count:
            raise ValueError(f"expected codes [B, {count}], not {list(codes.shape)}")
        codes = codes.to(self.device, torch.int64)
        if codes.numel() and not (int(codes.min()) >= 0 and int(codes.max()) < size):
            raise ValueError(f"codes must be from 0 to {size - 1}")
        return self._run(self.model.decode, codes)

    @torch.inference_mode()
    def _run(self, model: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """``model`` on exactly ``batch_size`` rows at a time; the last batch is filled up."""
        if not len(rows):
            # Nothing to compute, but the caller wants the shape that something would have.
            return model(rows.new_zeros((1, *rows.shape[1:])))[:0]
        results = []
        for part in torch.split(rows, self.batch_size):
            missing = self.batch_size - len(part)
            filled = torch.cat([part, part[:1].expand(missing, *part.shape[1:])])
            results.append(model(filled)[: len(part)])
        return torch.cat(results)

    def _encode_pixels(self, squares: Rows) -> Rows:
        rows = torch.from_numpy(squares)
        if self.device.type == "cuda":
            rows = rows.pin_memory()
        pixels = rows.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        return self.encode(pixels.float() / 255).cpu().numpy()

    def _decode_pixels(self, codes: Rows) -> Rows:
        pixels = self.decode(torch.from_numpy(codes))
        pixels = (pixels * 255).round().to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu().numpy()


def _in_groups(
    items: Iterable[tuple[T, Rows]], least: int, run: Callable[[Rows], Rows]
) -> Iterator[tuple[T, Rows]]:
    """Runs ``run`` on the rows of as many items as have ``least`` rows together, all of one shape,
    and gives each item its own results, in order."""

    def flush() -> Iterator[tuple[T, Rows]]:
        results = run(np.concatenate([rows for _, rows in group]))
        start = 0
        for item, rows in group:
            yield item, results[start : start + len(rows)]
            start += len(rows)

    group: list[tuple[T, Rows]] = []
    for entry in items:
        if group and entry[1].shape[1:] != group[0][1].shape[1:]:
            yield from flush()
            group.clear()
        group.append(entry)
        if sum(len(rows) for _, rows in group) >= least:
            yield from flush()
            group.clear()
    if group:
        yield from flush()


def _raised(result: T | TokcodecError) -> T:
    if isinstance(result, TokcodecError):
        raise result
    return result
