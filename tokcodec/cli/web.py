"""``tokcodec web``."""

from pathlib import Path
from typing import Annotated

from tokcodec.cli.options import Force, Weights, output_option
from tokcodec.cli.terminal import note
from tokcodec.config import DEFAULT_WEIGHTS


def web(
    output: Annotated[
        Path,
        output_option("Write index.html and offline.js there.", "-o", "--output", metavar="FOLDER"),
    ],
    weights: Weights = DEFAULT_WEIGHTS,
    force: Force = False,
) -> None:
    """Write a web page that encodes and decodes images in the browser.

    The page needs no Python. Paste a message to see its image, or choose an image to get a message
    of at most N bytes. index.html is the whole page, with the model: open it from the disk, send
    it to someone, or put the folder on a web server. From a server, the browser keeps it for use
    without a network. Images and messages stay on the device.

    Example: tokcodec web -o site
    """
    from tokcodec.web.site import write_site

    page = write_site(output, weights, overwrite=force)
    note(f"{page}: open it in a browser")
