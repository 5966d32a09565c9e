"""The command line: options, printing and exit status; the library does the work.

Modules here import the library inside functions, so that ``--help`` is fast.

Exit status: 0 done, 1 the run failed, 2 usage, 3 finished but some inputs failed, 130
interrupted (143 by SIGTERM). Results go to standard output, progress and messages to standard
error.
"""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command, ``sys.argv`` if none is given, and returns its exit status."""
    if sys.platform == "win32":
        from tokcodec.errors import WINDOWS

        print(WINDOWS, file=sys.stderr)
        return 1
    from tokcodec.cli.interrupt import Interrupted, Interrupts

    with Interrupts() as interrupts:  # before the imports, which take time
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        except (Exception, Interrupted) as error:
            # While compiled modules are imported, an interrupt may be turned into another error.
            return _report(interrupts.came or error)


def _run(arguments: list[str]) -> int:
    import warnings

    from typer.exceptions import TyperException

    from tokcodec.cli.app import app
    from tokcodec.errors import escaped, without_credentials

    with warnings.catch_warnings():
        # Pillow warns of images above half its limit, and of odd metadata that it can read.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            status: int | None = app(
                arguments,
                prog_name="tokcodec",
                standalone_mode=False,
                obj={"arguments": arguments},
            )
        except TyperException as error:
            if arguments:  # without arguments, the text is the help
                message = escaped(without_credentials(error.message))
                error.message = message.replace("Value error, ", "")
            error.show()  # type: ignore[attr-defined]
            return error.exit_code
    return status or 0


def _report(error: BaseException) -> int:
    """Prints one line on why the command ends; returns its exit status."""
    from tokcodec.cli import terminal
    from tokcodec.cli.hints import explain
    from tokcodec.cli.interrupt import Interrupted

    if isinstance(error, Interrupted):
        terminal.say(str(error))
        return error.status
    terminal.say(explain(error))
    return 1
