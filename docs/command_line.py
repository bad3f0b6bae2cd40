"""The command line as a click command, for the page that sphinx-click writes."""

from __future__ import annotations

import typer

from cap2im.cli import app

command = typer.main.get_command(app)
