"""tokcodec: an image-to-token codec.

The public names load on first use, so that importing the package costs nothing.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokcodec.batch.decode import decode_files as decode_files
    from tokcodec.batch.encode import encode_files as encode_files
    from tokcodec.batch.jobs import RunOptions as RunOptions
    from tokcodec.codec import Codec as Codec
    from tokcodec.dataset.export import export as export
    from tokcodec.dataset.memory import load_tokens as load_tokens
    from tokcodec.dataset.torch_dataset import TokenDataset as TokenDataset
    from tokcodec.errors import TokcodecError as TokcodecError
    from tokcodec.evaluate.run import evaluate as evaluate
    from tokcodec.evaluate.run import page as page
    from tokcodec.tokenfile import TokenFile as TokenFile
    from tokcodec.tokenize.api import tokenize as tokenize
    from tokcodec.train.api import train as train
    from tokcodec.web.site import write_site as write_site

__version__ = "0.1.0"
_MODULES = {
    "Codec": "codec",
    "RunOptions": "batch.jobs",
    "TokcodecError": "errors",
    "TokenDataset": "dataset.torch_dataset",
    "TokenFile": "tokenfile",
    "decode_files": "batch.decode",
    "encode_files": "batch.encode",
    "evaluate": "evaluate.run",
    "export": "dataset.export",
    "load_tokens": "dataset.memory",
    "page": "evaluate.run",
    "tokenize": "tokenize.api",
    "train": "train.api",
    "write_site": "web.site",
}
__all__ = ["__version__", *_MODULES]


class _Package(ModuleType):
    """Keeps a public function where a package has its name: importing ``tokcodec.tokenize.run``
    would put the package ``tokenize`` in the place of the function."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
