"""The largest token file within a limit of bytes."""

from collections.abc import Callable

from tokcodec.errors import ImageError, counted
from tokcodec.tokenfile import TokenFile

_OVERHEAD = 10  # bytes of a usual file without its tokens


def largest_within(
    compress: Callable[[int], TokenFile],
    tokens_of: Callable[[int], int],
    size_of: Callable[[TokenFile], int],
    limit: int,
    most: int,
    what: str,
    unit: str,
    start: int | None = None,
) -> TokenFile:
    """Find the file with the most tokens whose size is at most ``limit``.

    The result depends only on the image, the limit and the checkpoint. A file usually grows with
    its tokens: the search assumes that if a file does not fit, no file with more tokens does.

    Args:
        compress: returns the file of an image in at most this many tokens.
        tokens_of: returns the number of tokens of that file, without encoding anything.
        size_of: returns the size of a file, as the limit counts it.
        limit: the largest size.
        most: the most tokens to try.
        what, unit: what is made, and what its size is counted in, for the error.
        start: the first number of tokens to try; by default about one for each byte.

    Raises:
        ImageError: even the file of one token is larger.
    """
    best, smallest = None, None
    fits, misfit = 0, most + 1  # the most tokens known to fit, the fewest known not to
    count = min(most, start or max(1, limit - _OVERHEAD))
    while fits < misfit - 1:
        if best and tokens_of(count) == best.num_tokens:
            fits = count
        else:
            file = compress(count)
            if size_of(file) <= limit:
                best, fits = file, count
            else:
                smallest, misfit = file, min(count, tokens_of(count))
            per_token = max(1, size_of(file) - _OVERHEAD) / file.num_tokens
            count = int((limit - _OVERHEAD) / per_token)
        count = max(fits + 1, min(count, misfit - 1))
    if best is None:
        assert smallest
        raise ImageError(
            f"its smallest {what} has {counted(size_of(smallest), unit)}, more than {limit:,}"
        )
    return best
