"""The commands, gathered."""

from typing import Annotated

import typer

from tokcodec.cli.convert import convert
from tokcodec.cli.decode import decode
from tokcodec.cli.encode import encode
from tokcodec.cli.evaluate import evaluate
from tokcodec.cli.export import export
from tokcodec.cli.inspect import inspect
from tokcodec.cli.models import models
from tokcodec.cli.stats import stats
from tokcodec.cli.tokenize import tokenize
from tokcodec.cli.train import train
from tokcodec.cli.train_prior import train_prior
from tokcodec.cli.verify import verify

app = typer.Typer(
    help="An image-to-token codec: pictures to a few dozen discrete tokens, and back.",
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
    train,
    train_prior,
):
    app.command()(command)


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
