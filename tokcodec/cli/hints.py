"""Errors of the library, with the options that help."""

from tokcodec.errors import Hint, TokcodecError

_OPTIONS = {
    Hint.ALLOW_LARGE: "--allow-large lifts it, if you trust the file",
    Hint.SMALLER_SIZE: "--size asks for a smaller image, --allow-large lifts the limit",
    Hint.OVERWRITE: "choose another output with -o, or overwrite it with -f",
    Hint.OTHER_OUTPUT: "choose another output with -o",
    Hint.NAME_WEIGHTS: "name its checkpoint with --weights",
    Hint.NAME_FAMILY: "name the model with tokcodec convert --family",
    Hint.OTHER_FIT: "choose another --fit",
    Hint.LIST_MODELS: "tokcodec models --known lists them",
    Hint.DAMAGED: "tokcodec decode --damaged shows what is left",
    Hint.SMALLER_BATCH: "choose a smaller --batch-size",
    Hint.NAME_OUTPUT: "if it is the output, name it with -o",
    Hint.NAME_INCEPTION: "name the file with --rfid-weights",
}


def explain(error: BaseException) -> str:
    """The message of an error in one line, with the option that helps."""
    if isinstance(error, TokcodecError):
        return error.message(_OPTIONS[error.hint] if error.hint else None)
    return f"{type(error).__name__}: {error} (--debug shows where)"


def why_unknown(model_id: str) -> str:
    """What to do about a ``model_id`` whose checkpoint was not found."""
    return f"{model_id} is neither bundled nor cached; {_OPTIONS[Hint.NAME_WEIGHTS]}"
