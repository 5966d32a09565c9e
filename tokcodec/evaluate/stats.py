"""The size of token files and datasets, and their use of the codebook."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokcodec import checkpoint
from tokcodec.dataset.folder import is_dataset
from tokcodec.errors import DatasetError, FailedRowError, TokcodecError, TokenFileError
from tokcodec.evaluate.packets import join_packets, name_of_image
from tokcodec.io.files import SUFFIX
from tokcodec.io.remote import location
from tokcodec.io.walk import find_files
from tokcodec.tokenfile import TokenFile


@dataclass(frozen=True)
class Report:
    """The size of token files, and their use of the codebook.

    Attributes:
        images: the number of token files or rows of datasets; packets of one image count as one.
        failed: the number of images that could not be read, or lack packets, and of failed rows,
            which no other figure includes.
        raw_bytes: width · height · 3 of the originals.
        source_bytes: bytes of the original files; None unless all are next to their token files.
        file_bytes: bytes of the token files with headers and checksums, or of the Parquet files.
        tokens: the number of tokens in all files.
        payload_bits: bits of the tokens alone, as they are in the files.
        bits_per_pixel: bits of the token files over pixels of the originals.
        ratio_raw, ratio_source: raw and source bytes over file bytes.
        models: the ``model_id`` of every model, in hex.
        codebook_size: K; None if the model was not found, or there are several.
        tokens_used: the number of distinct tokens. This and all below is None if there are several
            models.
        usage: ``tokens_used`` over K.
        perplexity: 2 to the entropy.
        entropy_bits_per_token: of the distribution of tokens.
    """

    images: int
    failed: int
    raw_bytes: int
    source_bytes: int | None
    file_bytes: int
    tokens: int
    payload_bits: int
    bits_per_pixel: float | None
    ratio_raw: float | None
    ratio_source: float | None
    models: tuple[str, ...]
    codebook_size: int | None
    tokens_used: int | None
    usage: float | None
    perplexity: float | None
    entropy_bits_per_token: float | None


class Collector:
    """Adds up token files, one at a time, in memory that does not grow with their number.

    Args:
        header: the checkpoint of the files, if it is neither bundled nor cached.

    Attributes:
        failed, file_bytes: as of ``Report``; the caller counts them.
    """

    def __init__(self, header: checkpoint.Header | None = None) -> None:
        self.failed = self.file_bytes = 0
        self._header = header
        self._images = self._pixels = self._tokens = self._payload_bits = 0
        self._sources = self._source_bytes = 0  # the original files that are known
        self._counts: dict[bytes, Counter[int]] = defaultdict(Counter)

    def add(self, token_file: TokenFile, source_bytes: int | None = None) -> None:
        """Adds a token file or a row of a dataset, and the bytes of its image file if known.

        Raises:
            TokenFileError: its tokens cannot be read.
        """
        tokens = token_file.tokens_with(self._header)
        self._images += 1
        self._pixels += token_file.width * token_file.height
        self._tokens += token_file.num_tokens
        self._payload_bits += token_file.payload_bits
        if source_bytes is not None:
            self._sources += 1
            self._source_bytes += source_bytes
        used, counts = np.unique(tokens, return_counts=True)
        self._counts[token_file.model_id].update(
            dict(zip(used.tolist(), counts.tolist(), strict=True))
        )

    def report(self) -> Report:
        raw_bytes = 3 * self._pixels
        source_bytes = self._source_bytes if 0 < self._images == self._sources else None
        size = used = usage = perplexity = entropy = None
        if len(self._counts) == 1:
            ((model_id, counts),) = self._counts.items()
            header = checkpoint.find_by_model_id(model_id, self._header)
            size = header.config.quantizer.codebook_size if header else None
            used = len(counts)
            usage = used / size if size else None
            total = counts.total()
            entropy = math.fsum(-n / total * math.log2(n / total) for n in counts.values())
            perplexity = 2**entropy
        return Report(
            images=self._images,
            failed=self.failed,
            raw_bytes=raw_bytes,
            source_bytes=source_bytes,
            file_bytes=self.file_bytes,
            tokens=self._tokens,
            payload_bits=self._payload_bits,
            bits_per_pixel=8 * self.file_bytes / self._pixels if self._pixels else None,
            ratio_raw=raw_bytes / self.file_bytes if self._images else None,
            ratio_source=source_bytes / self.file_bytes if source_bytes is not None else None,
            models=tuple(sorted(model_id.hex() for model_id in self._counts)),
            codebook_size=size,
            tokens_used=used,
            usage=usage,
            perplexity=perplexity,
            entropy_bits_per_token=entropy,
        )


def stats(
    sources: Sequence[str],
    *,
    weights: str | None = None,
    failed: Callable[[TokcodecError], None] = lambda _: None,
) -> Report:
    """Adds up token files and token datasets, whatever their grids.

    Args:
        sources: token files, folders of them, token datasets; datasets also by URL.
        weights: the checkpoint of the token files, if it is neither bundled nor cached.
        failed: called with the error of each file or row that cannot be read.

    Raises:
        TokcodecError: a source or the checkpoint cannot be read.
    """
    collector = Collector(checkpoint.find(weights) if weights else None)
    others = []
    for source in map(location, sources):
        if is_dataset(source):
            _add_dataset(collector, source, failed)
        else:
            others.append(source)
    for path, found in join_packets(_token_files(others)):
        try:
            if isinstance(found, TokcodecError):
                raise found
            collector.add(found, _source_bytes(path, found))
            collector.file_bytes += found.file_bytes
        except TokenFileError as error:
            failed(error.named(path))
            collector.failed += 1
    return collector.report()


def _token_files(sources: Iterable[Path]) -> Iterator[tuple[Path, TokenFile | TokenFileError]]:
    for source in sources:
        for path in find_files(source, {SUFFIX}) if source.is_dir() else [source]:
            try:
                yield path, TokenFile.load(path)
            except TokenFileError as error:
                yield path, error


def _add_dataset(collector: Collector, path: Path, failed: Callable[[TokcodecError], None]) -> None:
    from tokcodec.dataset.reader import open_dataset, token_files

    dataset = open_dataset(path)
    collector.file_bytes += dataset.file_bytes
    without = 0
    for name, row in token_files(dataset):
        if isinstance(row, FailedRowError):
            without += 1
        elif isinstance(row, DatasetError):
            failed(row.named(name))
            collector.failed += 1
        else:
            collector.add(row)
    if without:
        reason = f"{without:,} of {len(dataset):,} rows failed when they were made"
        failed(FailedRowError(reason, name=path))
    collector.failed += without


def _source_bytes(path: Path, file: TokenFile) -> int | None:
    """The bytes of the image next to its token file; None if there is none."""
    source = path.with_name(name_of_image(path.name.removesuffix(SUFFIX), file))
    return source.stat().st_size if source != path and source.is_file() else None
