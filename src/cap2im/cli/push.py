"""`cap2im push`: upload a model to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cap2im.cli.options import FILE, ModelArgument, examples
from cap2im.hub import is_repository, upload

commands = typer.Typer()


def _repository(text: str) -> str:
    if not is_repository(text) or "@" in text:
        raise typer.BadParameter(f"{text}: expected OWNER/NAME of a repository on the Hugging Face hub")
    return text


@commands.command(
    epilog=examples(
        "cap2im push runs/photos OWNER/photos --dry-run",
        "cap2im push runs/photos OWNER/photos --evaluation evaluation-photos.json --private",
    )
)
def push(
    model: ModelArgument,
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the Hugging Face hub.", parser=_repository, metavar="OWNER/NAME")],
    evaluation: Annotated[list[Path] | None, typer.Option(help="File of cap2im evaluate; its metrics go into the card.", **FILE)] = None,
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print files, sizes and card, and upload nothing.")] = False,
) -> None:
    """Upload a finished model: weights, config, a card with metrics and a picture of samples. Training state stays here."""
    from cap2im.publishing import publication

    content = publication(model, repository, evaluation or ())
    sizes = content.sizes
    if dry_run:
        print(content.card)
    for name, size in sizes.items():
        print(f"{size:>13,} bytes  {name}")
    total = f"{len(sizes)} files, {sum(sizes.values()) / 2**20:.1f} MiB"
    if dry_run:
        print(f"{repository}: {total}; nothing was uploaded")
        return
    print(f"uploading {total} to {repository} on the Hugging Face hub", flush=True)
    commit = upload(repository, content.files, private=private)
    print(f'{repository}: commit {commit}; cap2im.load("{repository}", revision="{commit}") loads it')
