"""tokcodec: an image-to-token codec.

The public names load on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokcodec.batch.decode import decode_files
    from tokcodec.batch.encode import encode_files
    from tokcodec.codec import Codec
    from tokcodec.dataset.reader import load_tokens
    from tokcodec.dataset.torch_dataset import TokenDataset
    from tokcodec.errors import TokcodecError
    from tokcodec.tokenfile import TokenFile

__version__ = "0.1.0"
__all__ = [
    "Codec",
    "TokcodecError",
    "TokenDataset",
    "TokenFile",
    "__version__",
    "decode_files",
    "encode_files",
    "load_tokens",
]

_MODULES = {
    "Codec": "codec",
    "TokcodecError": "errors",
    "TokenDataset": "dataset.torch_dataset",
    "TokenFile": "tokenfile",
    "decode_files": "batch.decode",
    "encode_files": "batch.encode",
    "load_tokens": "dataset.reader",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
