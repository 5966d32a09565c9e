"""The errors that tokcodec raises on purpose.

The text of each is one line for the person at the terminal: the file, what is wrong, what to do.
Wrong arguments from a programmer (a tensor of another shape, say) stay ``ValueError``.

What a message says of a file, its name or a value in it, was written by whoever made the file: it
must not steer a terminal, look like a line of its own, or fill the screen.
"""

import re
import reprlib
from typing import Any

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"(?<=://)([^\s?]+)\?[^\s?=]+=[^\s:;,)'\"]*")  # where signatures of URLs stand
WINDOWS = "tokcodec runs on Linux and macOS; on Windows, use it in WSL"
_MOST = 1000  # characters of a message; the names of all published models are half as many


def escaped(text: str) -> str:
    """The text with all that does not print as itself written out, ``\\x1b`` say: control
    characters, separators of lines, marks that turn the direction of text, lone surrogates."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def without_credentials(text: str) -> str:
    """A text, of whose URLs neither user, password nor query are left."""
    return _QUERY.sub(r"\1", _CREDENTIALS.sub("", text)) if "://" in text else text


def one_line(text: str) -> str:
    """The text ``escaped``, without credentials, and without its middle where it is absurdly long:
    a message begins with the file and ends with what to do."""
    text = escaped(without_credentials(text))
    half = _MOST // 2
    return text if len(text) <= _MOST else f"{text[:half]} ... {text[-half:]}"


def quoted(value: Any) -> str:
    """A value that was parsed from a file, as Python would write it, but short."""
    return _QUOTING.repr(value)


class _Quoting(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 2  # one part of a file may stand at many places: YAML's aliases
        self.maxstring = self.maxother = 80

    def repr_int(self, x: int, level: int) -> str:  # noqa: ARG002
        # Python refuses to write out the longest ones.
        return repr(x) if x.bit_length() <= 128 else f"an integer of {x.bit_length()} bits"


_QUOTING = _Quoting()


class TokcodecError(Exception):
    """Base of every error below; the command line prints it without a traceback."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class ConfigError(TokcodecError):
    """A model configuration that is unknown, incomplete or contradicts itself."""


class CheckpointError(TokcodecError):
    """A checkpoint that cannot be found, read or trusted."""


class TokenFileError(TokcodecError):
    """Bytes that are not a whole token file of a known version, or do not fit the model."""


class ImageError(TokcodecError):
    """An image that cannot be opened, converted or written."""


class OutputError(TokcodecError):
    """An output that cannot be written where it was asked for."""


class FullDiskError(TokcodecError):
    """No space is left for an output; what else is to be written would fail as well."""


class DeviceError(TokcodecError):
    """A device to compute on that is not there."""


class DatasetError(TokcodecError):
    """A token dataset, or a source of images, that cannot be read, or a run that cannot go on."""


class FailedRowError(DatasetError):
    """A row of a token dataset has no tokens: its image could not be read."""


class TrainingError(TokcodecError):
    """Training that cannot start, resume or go on."""


class EvaluationError(TokcodecError):
    """Images that cannot be measured, or another codec that is not at hand."""
