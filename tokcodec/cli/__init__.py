"""The command line: options, printing and exit status; all else lies below it.

The modules here import what computes inside their functions: ``--help`` needs none of it.

Exit status: 0 done, 1 the run failed, 2 usage, 3 finished but some inputs failed, 130
interrupted. Results go to standard output, progress and messages to standard error.
"""

import atexit
import gc
import sys
import warnings

from tokcodec.errors import TokcodecError

_COLLECT_AFTER = 100_000  # new objects


def main() -> None:
    """Runs the command of ``sys.argv`` and exits."""
    # torch's modules are a quarter of a million objects. To look through all of them again and
    # again while they load, and once more at the end, would take half a second.
    gc.set_threshold(_COLLECT_AFTER)
    atexit.register(gc.freeze)

    # Refused or allowed, never half: between Pillow's limit and twice that it would only warn.
    warnings.filterwarnings("ignore", message="Image size .* could be decompression bomb")
    # Taken out here so that it may stand anywhere on the line.
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    try:
        from tokcodec.cli.app import app

        app(arguments, prog_name="tokcodec")
    except Exception as error:
        if debug:
            raise
        known = isinstance(error, TokcodecError)
        said = str(error) if known else f"{type(error).__name__}: {error} (--debug shows where)"
        print(f"tokcodec: {said}", file=sys.stderr, flush=True)
        sys.exit(1)
