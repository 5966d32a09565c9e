"""Write the page that encodes and decodes images in the browser.

``index.html`` contains its style, its programs and the model, because a page opened from the disk
cannot load other files. So this one file works from a server, from the disk, and as an attachment.
Its content security policy lets it load nothing else, and run only its own programs.

The programs implement TOKEN_FILE.md and the network in JavaScript. ``app.js`` is the page; all
other modules are joined to the program of its worker. ``offline.js`` keeps the page in the browser
if it comes from a server.
"""

import base64
import hashlib
import html
import re
from pathlib import Path
from string import Template

from tokcodec import checkpoint
from tokcodec.config import DEFAULT_WEIGHTS
from tokcodec.errors import CheckpointError, Hint, OutputError
from tokcodec.io.files import (
    output_errors,
    refuse_file_name,
    refuse_remote,
    write_atomically,
)
from tokcodec.io.job import Job
from tokcodec.model.runtime import runs_without_torch
from tokcodec.web.policy import source_hash

INDEX, OFFLINE = "index.html", "offline.js"
_PARTS = Path(__file__).parent
# Each module after those that it imports.
_MODULES = (
    "packets",
    "format",
    "prior",
    "tokens",
    "checkpoint",
    "image",
    "network",
    "codec",
    "worker",
)


def write_site(
    folder: str | Path, weights: str = DEFAULT_WEIGHTS, *, overwrite: bool = False
) -> Path:
    """Write a page that encodes and decodes images in the browser; return its path.

    Args:
        folder: where to write ``index.html``, which is the whole page, and ``offline.js``.
        weights: the checkpoint, see ``Codec.load``. Its encoder and decoder must be of the kind
            ``patch``.
        overwrite: whether the folder may hold files.

    Raises:
        ArgumentError: the folder is named like a file, or a URL.
        CheckpointError: there is no such checkpoint, it is damaged, or not of that kind.
        OutputError: the folder already contains such files, or cannot be written.

    >>> tokcodec.write_site("site").name
    'index.html'
    """
    folder = Path(folder)
    _check_output(folder, overwrite)
    header = checkpoint.find(weights)
    if not (runs_without_torch(header.config) and header.config.multiple):
        reason = "the page runs models of the kind patch for images of any size, such as tokcodec"
        raise CheckpointError(reason, name=header.name)
    page = _page(header).encode()
    version = hashlib.sha256(page).hexdigest()
    offline = Template(_read(OFFLINE)).substitute(version=version).encode()
    write_atomically(folder / OFFLINE, lambda file: file.write(offline))
    write_atomically(folder / INDEX, lambda file: file.write(page))
    return folder / INDEX


def _check_output(folder: Path, overwrite: bool) -> None:
    refuse_remote(folder)
    refuse_file_name(folder)
    if str(folder) == "-":
        raise OutputError("is not the name of a folder", name=folder, hint=Hint.OTHER_OUTPUT)
    with output_errors(folder):
        taken = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if taken:
        Job(folder, folder, "foreign", f"already contains {taken[0]}").check(overwrite)


def _page(header: checkpoint.Header) -> str:
    checkpoint.read(header.path)  # verifies it
    style, program = _read("style.css"), _read("app.js")
    return Template(_read(INDEX)).substitute(
        style=style,
        style_hash=source_hash(style),
        program=program,
        program_hash=source_hash(program),
        worker=worker_program(),
        name=html.escape(header.name),
        model_id=header.model_id[:4],
        model=base64.b64encode(header.path.read_bytes()).decode(),
    )


def worker_program() -> str:
    """The modules of the worker as one program, without their imports and exports."""
    modules = "\n".join(_read(f"{name}.js") for name in _MODULES)
    joined = re.sub(r"^import [^;]*;\n", "", modules, flags=re.MULTILINE)
    return '"use strict";\n' + re.sub(r"^export ", "", joined, flags=re.MULTILINE)


def _read(name: str) -> str:
    return (_PARTS / name).read_text(encoding="utf-8")
