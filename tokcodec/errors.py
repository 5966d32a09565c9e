"""The errors that tokcodec raises on purpose.

The text of each is one line: the file, what is wrong, what to do. A programmer's wrong arguments,
for example a tensor of another shape, stay ``ValueError``.

What a message says of a file, its name or a value in it, was written by whoever made the file: it
must not steer a terminal, look like a line of its own, or fill the screen.
"""

import re
import reprlib
from enum import Enum
from typing import Any, Self

# Of URLs, also where a slash was lost on the way through a path.
_USER = re.compile(r"(?<=[a-z0-9]:/)(/?)[^/\s]*@", re.IGNORECASE)
# Signatures stand in the query, or behind #; keys of object stores may have both characters, too.
_QUERY = re.compile(
    r"""(https?://?[^\s?\#]+ | [a-z0-9+.-]+://?[^\s?\#]+(?=[?\#][^\s?=]+=))
        [?\#]\S*?(?=[:;,.)\]}>'"]*(?:\s|$))""",
    re.IGNORECASE | re.VERBOSE,
)
WINDOWS = "tokcodec runs on Linux and macOS; on Windows, use it in WSL"
_MOST = 1000  # characters of a message; the names of all published models are half as many


def escaped(text: str) -> str:
    """The text with all that does not print as itself written out, ``\\x1b`` say: control
    characters, separators of lines, marks that turn the direction of text, lone surrogates."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def counted(number: int, noun: str) -> str:
    """A number of things in words: ``1 image``, ``1,000 images``."""
    return f"{number:,} {noun}" + ("s" if number != 1 else "")


def without_credentials(text: str) -> str:
    """A text, of whose URLs neither user, password, query nor fragment are left."""
    return _QUERY.sub(r"\1", _USER.sub(r"\1", text)) if ":/" in text else text


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


class Hint(Enum):
    """What to do about an error. The command line says it with its own options instead."""

    ALLOW_LARGE = "lift Pillow's limit (PIL.Image.MAX_IMAGE_PIXELS) if you trust the file"
    SMALLER_SIZE = "ask for a smaller size, or lift Pillow's limit (PIL.Image.MAX_IMAGE_PIXELS)"
    OVERWRITE = "choose another output, or allow overwriting"
    OTHER_OUTPUT = "choose another output"
    NAME_WEIGHTS = "name its checkpoint"
    NAME_FAMILY = "name the published model that it is"
    OTHER_FIT = "choose another fit"
    SMALLER_BATCH = "choose a smaller batch size"
    NAME_OUTPUT = "if it is what to write, give it as the output"
    NAME_INCEPTION = "name the file"


class TokcodecError(Exception):
    """Base of every error below; the command line prints it without a traceback.

    Attributes:
        reason: what is wrong.
        name: the file, image or row that it is about.
        hint: what to do about it, if that is not part of the reason.
    """

    def __init__(self, reason: str, *, name: object = None, hint: Hint | None = None) -> None:
        super().__init__(reason)
        self.reason = without_credentials(reason)
        self.name = None if name is None else without_credentials(str(name))
        self.hint = hint

    def named(self, name: object) -> Self:
        """The same error about ``name``; another name that it has is kept behind that."""
        if self.name == without_credentials(str(name)):
            return self
        reason = self.reason if self.name is None else f"{self.name}: {self.reason}"
        return type(self)(reason, name=name, hint=self.hint)

    def message(self, hint: str | None = None) -> str:
        """One line: the name, the reason, and ``hint``, or what to do from Python."""
        name = f"{self.name}: " if self.name is not None else ""
        hint = hint or (self.hint.value if self.hint else "")
        return one_line(f"{name}{self.reason}" + (f"; {hint}" if hint else ""))

    def __str__(self) -> str:
        return self.message()


class ArgumentError(TokcodecError, ValueError):
    """Arguments that contradict each other or the files that they name."""


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
    """Images that cannot be measured, or a baseline that is not installed."""
