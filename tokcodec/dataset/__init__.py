"""Token datasets: images of any number to Parquet, resumable, and back."""

from importlib.util import find_spec

from tokcodec.errors import DatasetError


def require_pyarrow() -> None:
    """Refuses, before anything is read, what needs the extra ``parquet``.

    Raises:
        DatasetError: it is not installed.
    """
    if find_spec("pyarrow") is None:
        raise DatasetError("token datasets need pyarrow: pip install 'tokcodec[parquet]'")
