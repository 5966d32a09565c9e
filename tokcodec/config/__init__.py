"""What a model is, as plain data, without torch: frozen dataclasses and their canonical text."""

from tokcodec.config.model import DEFAULT_WEIGHTS, ModelConfig, PreprocessingConfig

__all__ = ["DEFAULT_WEIGHTS", "ModelConfig", "PreprocessingConfig"]
