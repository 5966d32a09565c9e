"""The command line: options, printing and exit status; all else lies below it.

The modules here import what computes inside their functions: ``--help`` needs none of it.

Exit status: 0 done, 1 the run failed, 2 usage, 3 finished but some inputs failed, 130
interrupted (143 by SIGTERM). Results go to standard output, progress and messages to standard
error.
"""

import sys

_COLLECT_AFTER = 100_000  # new objects


def main() -> None:
    """Runs the command of ``sys.argv`` and exits."""
    from tokcodec.cli.interrupt import Interrupted, Interrupts

    interrupts = Interrupts()  # before all that takes time
    if sys.platform == "win32":
        from tokcodec.errors import WINDOWS

        sys.exit(WINDOWS)
    # Taken out here so that they may stand anywhere on the line.
    anywhere = {"--debug", "--quiet"}.intersection(sys.argv[1:])
    try:
        status = _run([a for a in sys.argv[1:] if a not in anywhere], "--quiet" in anywhere)
    except (Exception, Interrupted) as error:
        if "--debug" in anywhere:
            raise
        status = _tell(interrupts.came or error)
    finally:
        interrupts.end()
    sys.exit(status)


def _run(arguments: list[str], quiet: bool) -> int | None:
    import atexit
    import gc
    import warnings

    # torch's modules are a quarter of a million objects. To look through all of them again and
    # again while they load, and once more at the end, would take half a second.
    gc.set_threshold(_COLLECT_AFTER)
    atexit.register(gc.freeze)

    from typer.exceptions import TyperException

    from tokcodec.cli import terminal
    from tokcodec.errors import escaped

    terminal.quiet = quiet
    # Refused or allowed, never half: between Pillow's limit and twice that it would only warn.
    warnings.filterwarnings("ignore", message="Image size .* could be decompression bomb")
    try:
        from tokcodec.cli.app import app

        status: int | None = app(arguments, prog_name="tokcodec", standalone_mode=False)
    except TyperException as error:
        if arguments:  # which may be files of any name; without them, its text is the help
            error.message = escaped(error.message).replace("Value error, ", "")
        error.show()  # type: ignore[attr-defined]
        return error.exit_code
    return status


def _tell(error: BaseException) -> int:
    """Says in a line why the command ends; gives its exit status."""
    from tokcodec.cli.interrupt import Interrupted
    from tokcodec.cli.terminal import say
    from tokcodec.errors import TokcodecError

    if isinstance(error, Interrupted):
        say(str(error))
        return error.status
    known = isinstance(error, TokcodecError)
    say(str(error) if known else f"{type(error).__name__}: {error} (--debug shows where)")
    return 1
