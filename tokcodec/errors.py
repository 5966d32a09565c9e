"""The errors that tokcodec raises on purpose.

The text of each is one line for the person at the terminal: the file, what is wrong, what to do.
Wrong arguments from a programmer (a tensor of another shape, say) stay ``ValueError``.
"""


class TokcodecError(Exception):
    """Base of every error below; the command line prints it without a traceback."""


class ConfigError(TokcodecError):
    """A model configuration that is unknown, incomplete or contradicts itself."""


class CheckpointError(TokcodecError):
    """A checkpoint that cannot be found, read or trusted."""


class TokenFileError(TokcodecError):
    """Bytes that are not a whole token file of a known version, or do not fit the model."""


class PictureError(TokcodecError):
    """A picture that cannot be opened, converted or written."""


class OutputError(TokcodecError):
    """An output that cannot be written where it was asked for."""


class DeviceError(TokcodecError):
    """A device to compute on that is not there."""


class DatasetError(TokcodecError):
    """A token dataset, or a source of pictures, that cannot be read, or a run that cannot go on."""


class FailedRowError(DatasetError):
    """A row of a token dataset has no tokens: its picture could not be read."""


class TrainingError(TokcodecError):
    """Training that cannot start, resume or go on."""


class EvaluationError(TokcodecError):
    """Pictures that cannot be measured, or another codec that is not at hand."""
