"""Rows a second of a token dataset in shuffled order: python tests/benchmarks/dataset.py [ROWS]

A dataset of 100,000 rows of 256 tokens, with keys and labels, is written as ``tokenize`` does it.
Batches of 256 of its rows are read by index: from the array that ``load_tokens`` returns, from
``TokenDataset`` in this process, and by one worker of a ``DataLoader`` (without the time that it
takes to start). The ways are taken in turns, and the best of three rounds is printed.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader

from tokcodec import TokenDataset, load_tokens, tokenize

PHOTO = str(Path(__file__).parents[1] / "data" / "coffee.png")
TOKENS, CODEBOOK, BATCH = 256, 8192, 256
ROUNDS = 3


def write(folder: Path, count: int) -> Path:
    """A dataset of ``count`` rows: the one row of an image many times, with other tokens."""
    path = folder / "one.parquet"
    tokenize([PHOTO], str(path), fit="crop", tokens=TOKENS, device="cpu")
    table = pq.read_table(path).take([0] * count)
    tokens = np.random.default_rng(0).integers(0, CODEBOOK, count * TOKENS, np.uint16)
    columns = {
        "tokens": pa.FixedSizeListArray.from_arrays(pa.array(tokens), TOKENS),
        "label": pa.array([str(number % 1000) for number in range(count)]),
        "key": pa.array([f"images/{number:08}.jpg" for number in range(count)]),
    }
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), values)
    pq.write_table(table, path, row_group_size=512, write_page_checksum=True)
    return path


def by_array(tokens: Any, order: list[list[int]]) -> Iterator[torch.Tensor]:
    for batch in order:
        yield torch.from_numpy(tokens[batch].astype(np.int64))


def by_loader(dataset: TokenDataset, order: list[list[int]], workers: int) -> Iterator[Any]:
    loader = DataLoader(dataset, batch_sampler=order, num_workers=workers)
    for batch in loader:
        yield batch[0]


def rate(batches: Iterator[torch.Tensor]) -> float:
    """Rows a second, from the second batch on."""
    next(batches)
    begun, rows, total = time.perf_counter(), 0, 0
    for batch in batches:
        rows += len(batch)
        total += int(batch[0, 0])
    return rows / (time.perf_counter() - begun)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), count)
        begun = time.perf_counter()
        tokens = load_tokens(path)
        print(f"load_tokens: {time.perf_counter() - begun:.2f} s for {count:,} rows")
        begun = time.perf_counter()
        dataset = TokenDataset(path)
        print(f"TokenDataset: {time.perf_counter() - begun:.2f} s")
        with_keys = TokenDataset(path, ("key", "width"))
        order = np.random.default_rng(0).permutation(count).tolist()
        batches = [order[start : start + BATCH] for start in range(0, count, BATCH)]
        ways = {
            "NumPy array": lambda: by_array(tokens, batches),
            "TokenDataset, in process": lambda: by_loader(dataset, batches, 0),
            "TokenDataset, one worker": lambda: by_loader(dataset, batches, 1),
            "with two columns, one worker": lambda: by_loader(with_keys, batches, 1),
        }
        best = dict.fromkeys(ways, 0.0)
        for _ in range(ROUNDS):
            for name, way in ways.items():
                best[name] = max(best[name], rate(way()))
        for name, value in best.items():
            print(f"{name}: {value:,.0f} rows/s")


if __name__ == "__main__":
    main()
