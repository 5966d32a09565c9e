"""Run any model in torch: devices, batches of a fixed size, CUDA streams, threads."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from queue import SimpleQueue
from typing import TypeVar

import torch
from torch import Tensor

from tokcodec.checkpoint import Header
from tokcodec.errors import DeviceError, Hint, counted
from tokcodec.model.loading import load, resolve_device
from tokcodec.model.runtime import Dtype, Floats, Pixels, Tokens, default_batch_size
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.parallel import map_ahead

T = TypeVar("T")
R = TypeVar("R")

BATCHES_AT_ONCE = 4  # on a GPU, which has work while the host waits for one of them


class TorchRuntime:
    """Run a model on exactly ``batch_size`` tiles at a time; the last batch is filled up.

    So the tokens of an image do not depend on the images that are encoded with it, on the same
    device, build of torch and batch size. Tiles that are not the model's square run
    ``any_size_batch`` at a time, because every image may have another shape.
    """

    def __init__(
        self,
        model: Tokenizer,
        batch_size: int,
        any_size_batch: int = 1,
        dtype: Dtype = "float32",
        decoder_batch: int | None = None,
    ) -> None:
        self.model, self.dtype = model, dtype
        self.batch_size, self.any_size_batch = batch_size, any_size_batch
        self.decoder_batch = decoder_batch or batch_size
        self.torch_device = next(model.parameters()).device
        self._streams: SimpleQueue[torch.cuda.Stream] | None = None
        if self.torch_device.type == "cuda":
            self._streams = SimpleQueue()
            for _ in range(BATCHES_AT_ONCE):
                self._streams.put(torch.cuda.Stream(self.torch_device))  # type: ignore[no-untyped-call]

    @classmethod
    def load(
        cls,
        header: Header,
        device: str = "auto",
        batch_size: int | None = None,
        dtype: Dtype = "float32",
        compiled: bool = False,
    ) -> "TorchRuntime":
        """Load a checkpoint; for the arguments see ``Codec.load``.

        Raises:
            CheckpointError: the weights are damaged.
            DeviceError: there is no such device.
        """
        where = resolve_device(device)
        model = load(header, where)
        if compiled:
            # Only models of any size need dynamic shapes, which are slower.
            model.encoder.compile(dynamic=None if header.config.multiple else False)
        size = batch_size or default_batch_size(header.config, where.type)
        decoder_batch = batch_size or default_batch_size(header.config, where.type, "decoder")
        return cls(model, size, batch_size or 1, dtype, decoder_batch)

    @property
    def device(self) -> str:
        return str(self.torch_device)

    def encode(self, pixels: Pixels, scale: int) -> Tokens:
        rows = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
        if self.torch_device.type == "cuda":
            rows = rows.pin_memory()  # uint8, a quarter of the bytes of float32
        side = self.model.config.preprocessing.model_size * scale
        with self._cuda_stream():
            tokens = self._run(
                lambda part: self.model.encode(self.preprocess(part, scale)),
                rows.to(self.torch_device, non_blocking=True),
                self.batch_size if tuple(rows.shape[1:3]) == (side, side) else self.any_size_batch,
            )
            return tokens.cpu().numpy()

    def decode(self, tokens: Tokens) -> Pixels:
        with self._cuda_stream():
            pixels = self.to_uint8(self.decode_tensor(torch.from_numpy(tokens)))
            return pixels.cpu().numpy()

    @torch.inference_mode()
    def lookup(self, tokens: Tokens) -> Floats:
        found = self.model.quantizer.lookup(torch.from_numpy(tokens).to(self.torch_device))
        vectors: Floats = found.float().cpu().numpy()
        return vectors

    @torch.inference_mode()
    def quantize(self, z: Floats) -> Tokens:
        found = self.model.quantizer.tokens(torch.from_numpy(z).to(self.torch_device))
        return found.cpu().numpy()

    def encode_tensor(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in [0, 1] -> tokens int64 [B, *token_shape], on the device."""
        side = self.model.config.preprocessing.image_size
        return self._run(
            lambda part: self.model.encode(self.model.shrink(part)),
            pixels.to(self.torch_device, torch.float32),
            self.batch_size if tuple(pixels.shape[2:]) == (side, side) else self.any_size_batch,
        )

    def decode_tensor(self, tokens: Tensor) -> Tensor:
        """Tokens int64 [B, *token_shape] -> pixels float32 [B, 3, H, W] in [0, 1], on the device.

        Tokens [B, n] are the first n of each tile.
        """
        config = self.model.config
        side = config.preprocessing.image_size
        tile = tokens.ndim == 2 or tuple(tokens.shape[1:]) == config.token_shape(side, side)
        size = self.decoder_batch if tile else self.any_size_batch
        return self._run(self.model.decode, tokens.to(self.torch_device, torch.int64), size)

    def preprocess(self, pixels: Tensor, scale: int) -> Tensor:
        """Pixels uint8 [B, H, W, 3] -> float32 [B, 3, h, w] in [0, 1], as the encoder sees them."""
        scaled = pixels.permute(0, 3, 1, 2).float() / 255
        return torch.nn.functional.avg_pool2d(scaled, scale) if scale > 1 else scaled

    def to_uint8(self, pixels: Tensor) -> Tensor:
        """Pixels float32 [B, 3, H, W] in [0, 1] -> uint8 [B, H, W, 3]."""
        pixels = pixels * 255
        if self.model.config.rounding == "nearest":
            pixels = pixels.round()
        return pixels.to(torch.uint8).permute(0, 2, 3, 1)

    @torch.inference_mode()
    def _run(self, model: Callable[[Tensor], Tensor], rows: Tensor, size: int) -> Tensor:
        """Run the model on rows, in batches of this size.

        Raises:
            DeviceError: the device has too little memory for a batch.
        """
        if not len(rows):  # the result is empty, but has a shape
            return model(rows.new_zeros((1, *rows.shape[1:])))[:0]
        low = self.dtype == "bfloat16"
        try:
            with torch.autocast(self.torch_device.type, torch.bfloat16, enabled=low):
                return torch.cat([_filled(model, part, size) for part in torch.split(rows, size)])
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"not enough memory for batches of {counted(size, 'tile')}",
                name=self.device,
                hint=Hint.SMALLER_BATCH,
            ) from error

    @contextlib.contextmanager
    def _cuda_stream(self) -> Iterator[None]:
        """Run the block on one of the CUDA streams, and wait for a free one.

        The number of streams bounds the memory for batches.
        """
        if self._streams is None:
            yield
            return
        stream = self._streams.get()
        try:
            stream.wait_stream(torch.cuda.default_stream(self.torch_device))  # for the weights
            with torch.cuda.stream(stream):
                yield
        finally:
            self._streams.put(stream)

    def map(self, work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
        """Call ``work`` for each item, in threads; results are in order.

        On a CPU, each of the ``workers`` has one of torch's threads, so that all cores have work;
        a single item, or a single worker, has all of them. A GPU has several batches at once, for
        any number of ``workers``.
        """
        workers = workers if self.torch_device.type == "cpu" else BATCHES_AT_ONCE
        items = iter(items)
        first = list(islice(items, 2)) if workers > 1 else []
        if len(first) < 2:
            yield from map(work, chain(first, items))
            return
        threads = torch.get_num_threads()
        try:
            yield from map_ahead(
                work,
                chain(first, items),
                workers,
                2 * workers,
                lambda: torch.set_num_threads(1),
                at_once=True,
            )
        finally:
            torch.set_num_threads(threads)  # for threads that start after this


def _filled(model: Callable[[Tensor], Tensor], part: Tensor, size: int) -> Tensor:
    """Run the model on a batch that is filled up to ``size`` rows; drop the added results."""
    missing = size - len(part)
    if not missing:
        return model(part)
    return model(torch.cat([part, part[:1].expand(missing, *part.shape[1:])]))[: len(part)]
