"""Token datasets: any number of images to Parquet, resumable, and back."""

from importlib.util import find_spec

from tokcodec.errors import DatasetError


def require_pyarrow() -> None:
    """Raise DatasetError if the extra ``parquet`` is not installed, before anything is read."""
    if find_spec("pyarrow") is None:
        raise DatasetError("token datasets need pyarrow: pip install 'tokcodec[parquet]'")
