"""All commands."""

import inspect as signatures
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.exceptions import TyperException

from tokcodec.cli import terminal
from tokcodec.cli.convert import convert
from tokcodec.cli.decode import decode
from tokcodec.cli.encode import encode
from tokcodec.cli.evaluate import evaluate
from tokcodec.cli.export import export
from tokcodec.cli.hints import explain
from tokcodec.cli.inspect import inspect
from tokcodec.cli.models import models
from tokcodec.cli.options import running
from tokcodec.cli.page import page
from tokcodec.cli.stats import stats
from tokcodec.cli.tokenize import tokenize
from tokcodec.cli.train import train
from tokcodec.cli.train_prior import train_prior
from tokcodec.cli.verify import verify
from tokcodec.cli.web import web
from tokcodec.errors import ArgumentError, without_credentials

_MAY_BE_EMPTY = {"against"}  # names by commas
_MEANT = {"--model": "--weights", "--checkpoint": "--weights", "--out": "--output"}
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")]


def _without_types(parameters: list[Any]) -> list[Any]:
    """Typer would show a flag as ``--force <bool>`` and a list of files as ``SRC <list[str]>``."""
    for parameter in parameters:
        if isinstance(parameter, TyperArgument):
            parameter.display_type_rich = lambda ctx: None  # type: ignore[method-assign]  # noqa: ARG005
        elif parameter.is_flag:
            parameter.metavar = ""
    return parameters


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


class _Command(TyperCommand):
    """A command that refuses empty values, which as a path would be this folder, and an option that
    is given twice, of which the first would be ignored."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            given, _, order = self.make_parser(ctx).parse_args(args=list(args))
        except TyperException as error:
            meant = _MEANT.get(getattr(error, "option_name", ""))
            if any(meant in parameter.opts for parameter in self.params):
                error.possibilities = [meant]  # type: ignore[attr-defined]
            raise
        options = {parameter for parameter in order if isinstance(parameter, TyperOption)}
        once = {option for option in options if not option.is_flag and not option.multiple}
        for parameter in order:
            hint = " / ".join(parameter.opts) if parameter in options else parameter.metavar
            values = given[str(parameter.name)]
            if "" in (values if isinstance(values, list | tuple) else [values]) and (
                parameter.name not in _MAY_BE_EMPTY
            ):
                raise typer.BadParameter("the value is empty", param_hint=hint)
            if parameter in once and order.count(parameter) > 1:
                raise typer.BadParameter("given twice, but takes one value", param_hint=hint)
        return super().parse_args(ctx, args)


def _with_common_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with ``--quiet`` and ``--debug``, which may also precede its name."""

    def run(context: typer.Context, quiet: bool, debug: bool, **options: Any) -> None:
        before = context.find_root().params
        terminal.quiet = quiet or before["quiet"]
        running.set(context)
        try:
            command(**options)
        except (typer.Exit, TyperException):
            raise
        except ArgumentError as error:
            raise typer.BadParameter(explain(error), context) from error
        except Exception:
            if not (debug or before["debug"]):
                raise
            print(without_credentials(traceback.format_exc()), end="", file=sys.stderr)
            raise typer.Exit(1) from None

    signature = signatures.signature(command)
    kind = signatures.Parameter.KEYWORD_ONLY
    common = [
        signatures.Parameter("context", kind, annotation=typer.Context),
        signatures.Parameter("quiet", kind, default=False, annotation=Quiet),
        signatures.Parameter("debug", kind, default=False, annotation=Debug),
    ]
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), *common]
    )
    run.__name__, run.__doc__ = command.__name__, _unwrapped(command.__doc__ or "")
    return run


def _unwrapped(text: str) -> str:
    """A help text without markup and with a line for each paragraph, because typer wraps lines."""
    paragraphs = escape(signatures.cleandoc(text)).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


app = typer.Typer(
    cls=_Group,
    help="Turn images into discrete tokens, and tokens into images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    encode,
    decode,
    web,
    stats,
    inspect,
    models,
    tokenize,
    export,
    verify,
    convert,
    evaluate,
    page,
    train,
    train_prior,
):
    app.command(cls=_Command)(_with_common_options(command))


def _print_version(wanted: bool) -> None:
    if wanted:
        from tokcodec import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    pass
