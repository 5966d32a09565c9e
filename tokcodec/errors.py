"""The errors that tokcodec raises for bad input.

The message of each is one line: the file, what is wrong, what to do. Programming errors, such as a
tensor of another shape, are ``ValueError`` or ``TypeError``.

Names of files, and values in them, may come from an attacker: in a message they must not control a
terminal, look like another line, or fill the screen.
"""

import re
import reprlib
from enum import Enum
from typing import Any, Self

# User and password in a URL, which may have lost a slash in a path.
_USER = re.compile(r"(?<=[a-z0-9]:/)(/?)[^/\s]*@", re.IGNORECASE)
# Signatures in the query of a URL, or after #. Keys of object stores may contain both characters.
_QUERY = re.compile(
    r"""(https?://?[^\s?\#]+ | [a-z0-9+.-]+://?[^\s?\#]+(?=[?\#][^\s?=]+=))
        [?\#]\S*?(?=[:;,.)\]}>'"]*(?:\s|$))""",
    re.IGNORECASE | re.VERBOSE,
)
WINDOWS = "tokcodec runs on Linux and macOS; on Windows, use it in WSL"
_MOST = 1000  # the most characters of a message; the names of all published models are about 500


def escaped(text: str) -> str:
    """Replace characters that are not printable, such as control characters, line separators and
    marks of text direction, by escapes like ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def counted(number: int, noun: str) -> str:
    """A number and a noun: ``1 image``, ``1,000 images``."""
    return f"{number:,} {noun}" + ("s" if number != 1 else "")


def without_credentials(text: str) -> str:
    """Remove user, password, query and fragment from the URLs in a text."""
    return _QUERY.sub(r"\1", _USER.sub(r"\1", text)) if ":/" in text else text


def one_line(text: str) -> str:
    """Escape a text, and remove credentials and, if it is too long, its middle."""
    text = escaped(without_credentials(text))
    half = _MOST // 2
    return text if len(text) <= _MOST else f"{text[:half]} ... {text[-half:]}"


def quoted(value: Any) -> str:
    """A shortened ``repr`` of a value from a file."""
    return _QUOTING.repr(value)


class _Quoting(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 2  # one object may be at many places, as with YAML's aliases
        self.maxstring = self.maxother = 80

    def repr_int(self, x: int, level: int) -> str:  # noqa: ARG002
        # Python refuses to format very long ones.
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
    LIST_MODELS = "tokcodec.families.known() lists them"
    DAMAGED = "decode it as damaged to see what is left"
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
        """The same error with ``name`` first, before a name that it already has."""
        if self.name == without_credentials(str(name)):
            return self
        reason = self.reason if self.name is None else f"{self.name}: {self.reason}"
        return type(self)(reason, name=name, hint=self.hint)

    def message(self, hint: str | None = None) -> str:
        """The message in one line; ``hint`` replaces the text of the error's own hint."""
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
    """Bytes that are not a whole token file of a known version, or are of another model."""


class ImageError(TokcodecError):
    """An image that cannot be opened, converted or written."""


class OutputError(TokcodecError):
    """An output that cannot be written, or exists already."""


class FullDiskError(TokcodecError):
    """The disk is full, so that all other outputs would fail as well."""


class DeviceError(TokcodecError):
    """A device that is not available, or has too little memory."""


class DatasetError(TokcodecError):
    """A token dataset or a source that cannot be read, or a run that cannot continue."""


class FailedRowError(DatasetError):
    """A row of a token dataset has no tokens: its image could not be read."""


class TrainingError(TokcodecError):
    """Training that cannot start, resume or continue."""


class EvaluationError(TokcodecError):
    """Images that cannot be measured, or a baseline that is not installed."""
