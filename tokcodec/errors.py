"""The errors that tokcodec raises on purpose.

The text of each is one line for the person at the terminal: the file, what is wrong, what to do.
Wrong arguments from a programmer (a tensor of another shape, say) stay ``ValueError``.
"""

import re

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"(?<=://)([^\s?]+)\?[^\s?=]+=[^\s:;,)'\"]*")  # where signatures of URLs stand


def without_credentials(text: str) -> str:
    """A text, of whose URLs neither user, password nor query are left."""
    return _QUERY.sub(r"\1", _CREDENTIALS.sub("", text)) if "://" in text else text


class TokcodecError(Exception):
    """Base of every error below; the command line prints it without a traceback. Its text is
    without the credentials of URLs."""

    def __str__(self) -> str:
        return without_credentials(super().__str__())


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


class FullDiskError(TokcodecError):
    """No space is left for an output; what else is to be written would fail as well."""


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
