"""The command line: a thin typed layer over functions that can be imported; one module a family of commands."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from cap2im._version import __version__
from cap2im.cli import compare, convert, data, draw, evaluate, export, figures, generate, listing, push, serve, train
from cap2im.cli.errors import exit_status, refuse_empty_values

app = typer.Typer(
    name="cap2im",
    help="Images from captions with attention: alignDRAW and its relatives.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for family in (draw, train, evaluate, compare, figures, generate, data, convert, export, push, serve, listing):
    app.add_typer(family.commands)  # without a name: its commands are on the same level


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; the entry point of `cap2im`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a locale without UTF-8 cannot print every caption
    with _log_on_stderr():
        status = exit_status(_run)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # in one of several processes torch's threads can abort while the interpreter is torn down
    sys.exit(status)


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Print the messages that the package logs to standard error."""
    logger, handler = logging.getLogger("cap2im"), logging.StreamHandler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _run() -> Any:
    refuse_empty_values(sys.argv[1:])
    return app(standalone_mode=False)
