"""The commands, gathered."""

from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from tokcodec.cli.convert import convert
from tokcodec.cli.decode import decode
from tokcodec.cli.encode import encode
from tokcodec.cli.evaluate import evaluate
from tokcodec.cli.export import export
from tokcodec.cli.inspect import inspect
from tokcodec.cli.models import models
from tokcodec.cli.page import page
from tokcodec.cli.stats import stats
from tokcodec.cli.tokenize import tokenize
from tokcodec.cli.train import train
from tokcodec.cli.train_prior import train_prior
from tokcodec.cli.verify import verify

_MAY_BE_EMPTY = {"against"}  # names by commas


class _Command(TyperCommand):
    """Refuses what would be taken for something else: an empty text, which as a path is this
    folder, and an option given twice, of which the last would hold."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given, _, order = self.make_parser(ctx).parse_args(args=list(args))
        options = {parameter for parameter in order if isinstance(parameter, TyperOption)}
        once = {option for option in options if not option.is_flag and not option.multiple}
        for parameter in order:
            hint = " / ".join(parameter.opts) if parameter in options else parameter.metavar
            values = given[str(parameter.name)]
            if "" in (values if isinstance(values, list | tuple) else [values]) and (
                parameter.name not in _MAY_BE_EMPTY
            ):
                raise typer.BadParameter("an empty text is no value", param_hint=hint)
            if parameter in once and order.count(parameter) > 1:
                raise typer.BadParameter("given twice, but takes one value", param_hint=hint)
        return super().parse_args(ctx, args)


app = typer.Typer(
    help="An image-to-token codec: images to a few dozen discrete tokens, and back.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    encode,
    decode,
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
    app.command(cls=_Command)(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from tokcodec import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks; anywhere on the line.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Only errors; anywhere on the line.")
    ] = False,
) -> None:
    pass
