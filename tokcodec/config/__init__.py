"""What a model is, as plain data, without torch: frozen configs and their canonical text.

The configs load on first use, for they need pydantic, and commands that read no checkpoint do not.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokcodec.config.model import ModelConfig, PreprocessingConfig

__all__ = ["DEFAULT_WEIGHTS", "ModelConfig", "PreprocessingConfig"]

DEFAULT_WEIGHTS = "tokcodec"  # the bundled checkpoint that encodes unless another is named


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tokcodec.config import model

    return getattr(model, name)
