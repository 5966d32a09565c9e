"""The formats of exports. Each is a module with a ``Format``; this is their table."""

from pathlib import Path

from tokcodec.dataset.formats import arrays, flat, jsonl, llamagen, mds, megatron, npy, webdataset
from tokcodec.dataset.formats.format import Format
from tokcodec.errors import ArgumentError, DatasetError

FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        npy.FORMAT,
        arrays.NPZ,
        arrays.SAFETENSORS,
        jsonl.FORMAT,
        flat.FORMAT,
        webdataset.FORMAT,
        llamagen.FORMAT,
        mds.FORMAT,
        megatron.FORMAT,
    )
}


def format_of(output: str, name: str | None = None) -> Format:
    """The format of this ``name``, or of the extension of the output.

    Raises:
        ArgumentError: there is no format of this name.
        DatasetError: no format has this extension.
    """
    if name is not None:
        if name not in FORMATS:
            raise ArgumentError(f"{name!r} is not one of the formats {', '.join(FORMATS)}")
        return FORMATS[name]
    suffix = Path(output).suffix
    for each in FORMATS.values():
        if suffix and each.suffix == suffix:
            return each
    suffixes = dict.fromkeys(each.suffix for each in FORMATS.values() if each.suffix)
    raise DatasetError(f"name it {', '.join(suffixes)}, or choose a format", name=output)


def is_export(name: str) -> bool:
    """Whether a file has the extension of a format that can be read; a tar may hold other files."""
    suffix = Path(name).suffix
    if suffix == webdataset.FORMAT.suffix:
        return webdataset.holds_tokens(name)
    return any(each.read and each.suffix == suffix for each in FORMATS.values())
