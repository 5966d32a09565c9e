"""The command line: options, printing and exit status; all else lies below it.

The modules here import what computes inside their functions: ``--help`` needs none of it.

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
            # What is raised while compiled modules are imported may become an error of theirs.
            return _report(interrupts.came or error)


def _run(arguments: list[str]) -> int:
    import warnings

    from typer.exceptions import TyperException

    from tokcodec.cli.app import app
    from tokcodec.errors import escaped, without_credentials

    with warnings.catch_warnings():
        # Of images above half its limit, and of odd metadata in files that it reads all the same.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            status: int | None = app(
                arguments,
                prog_name="tokcodec",
                standalone_mode=False,
                obj={"arguments": arguments},
            )
        except TyperException as error:
            if arguments:  # which may be files of any name; without them, its text is the help
                message = escaped(without_credentials(error.message))
                error.message = message.replace("Value error, ", "")
            error.show()  # type: ignore[attr-defined]
            return error.exit_code
    return status or 0


def _report(error: BaseException) -> int:
    """Says in one line why the command ends; gives its exit status."""
    from tokcodec.cli import terminal
    from tokcodec.cli.hints import explain
    from tokcodec.cli.interrupt import Interrupted

    if isinstance(error, Interrupted):
        terminal.say(str(error))
        return error.status
    terminal.say(explain(error))
    return 1
