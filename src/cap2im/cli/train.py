"""`cap2im train` and `cap2im recipe`."""

from __future__ import annotations

import datetime
import functools
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cap2im.cli.errors import StoppedError
from cap2im.cli.options import PATH, PLACE, ChangesOption, DataOption, examples
from cap2im.extras import require

commands = typer.Typer()


@commands.command(
    epilog=examples(
        "cap2im train aligndraw-digits --run runs/digits",
        "cap2im train aligndraw-mnist --data mnist/",
        "cap2im train aligndraw-small --data data/photos --run runs/photos --name 'my photos'",
        "cap2im train --resume runs/photos",
        "cap2im train --resume runs/photos --set train.updates=10000",
        "cap2im train aligndraw-mnist --data mnist/ --set train.batch_size=64 --run runs/64",
        "cap2im train aligndraw-small --data data/photos --dry-run",
        "cap2im train sharpener-mnist --data mnist/",
        "cap2im train damsm-mnist --data mnist/",
        "cap2im train attngan-mnist --data mnist/ --set train.damsm=runs/damsm-mnist",
        "cap2im train skipthoughts --data sentences.txt",
        "cap2im train aligndraw-digits --log wandb",
        "accelerate launch --multi_gpu --num_processes 2 -m cap2im train aligndraw-mnist",
    )
)
def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe's name (see cap2im list) or a TOML file; with --resume, a run's folder.", **PLACE)
    ] = None,
    changes: ChangesOption = None,
    run: Annotated[Path | None, typer.Option(help="Folder of checkpoints, log and result. [default: runs/RECIPE]", **PATH)] = None,
    name: Annotated[str, typer.Option(help="Of the model, for its card. [default: the run folder's name]")] = "",
    data: DataOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from a run's last checkpoint; its recipe and data need not be given again.")
    ] = False,
    start_from: Annotated[str | None, typer.Option("--from", help="A model whose weights the run starts from.", **PLACE)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the whole recipe and stop; with --data also updates and time.")] = False,
    device: Annotated[Literal["auto", "cpu"], typer.Option(help="auto takes the accelerator if there is one.")] = "auto",
    compile_model: Annotated[bool, typer.Option("--compile", help="Compile the network's steps; starts later, runs faster.")] = False,
    workers: Annotated[int, typer.Option(min=0, max=256, help="Processes that read images ahead.")] = 2,
    stream: Annotated[bool, typer.Option("--stream", help="Read a dataset shard by shard, from a folder or a URL.")] = False,
    log: Annotated[Literal["tensorboard", "wandb"], typer.Option(help="Tracker that shows the log.")] = "tensorboard",
) -> None:
    """Train a model by a recipe."""
    from cap2im.config import load_recipe, recipe_names, to_toml

    if recipe is None and not (resume and run is not None):
        raise ValueError("give a recipe (see cap2im list), or --resume and the folder of a run")
    if resume and start_from is not None:
        raise ValueError("--from begins a new run, and --resume goes on with an old one: give one of them")
    if resume and recipe is not None and recipe not in recipe_names() and not Path(recipe).exists():
        raise ValueError(f"--resume {recipe}: neither a run's folder nor a recipe (see cap2im list)")
    goes_on = resume and (recipe is None or (recipe not in recipe_names() and Path(recipe).is_dir()))
    if goes_on and recipe is not None:
        if run is not None:
            raise ValueError(f"{recipe} and --run {run}: give one run to go on with")
        run = Path(recipe)
    resolved = None if goes_on else load_recipe(str(recipe), changes or [])
    if dry_run and data is None and resolved is not None:
        print(to_toml(resolved), end="")
        return
    require("training", "train", "accelerate", "tensorboard")
    from cap2im.loading import find_model
    from cap2im.training import dispatch as training

    how: dict[str, Any] = {"stream": stream, "device": device}
    if dry_run:
        if resolved is None:
            assert run is not None
            print(to_toml(training.run_recipe(run, changes or [])), end="")
            return
        planned, updates, seconds = training.rehearse(resolved, name=str(recipe), data=data, **how)
        whole = datetime.timedelta(seconds=round(updates * seconds))
        print(f"# {updates:,} updates of {seconds:.3g} s: {whole}, and validation comes on top\n{to_toml(planned)}", end="")
        return
    how |= {
        "command": shlex.join(["cap2im", *map(training.shareable, sys.argv[1:])]),
        "compile_model": compile_model,
        "workers": workers,
        "log": log,
    }
    if resolved is None:
        assert run is not None
        folder, go_on = run, functools.partial(training.resume, run, changes or [], name=name, data=data, **how)
    else:
        label = Path(str(recipe)).stem
        folder = Path("runs") / label if run is None else run
        begun = None if start_from is None else find_model(start_from)
        resolved = training.named(resolved, name)
        go_on = functools.partial(training.train, resolved, folder, name=label, data=data, resume=resume, start_from=begun, **how)
    try:
        result = go_on()
    except KeyboardInterrupt:
        raise StoppedError(_where_it_stopped(folder)) from None
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"model written to {result}")


def _where_it_stopped(run: Path) -> str:
    """What an interrupted training left, and how to go on."""
    from cap2im.checkpoint import checkpoints

    if not (found := checkpoints(run)):
        return f"interrupted before the first checkpoint of {run}"
    step = int(found[-1].name.rpartition("-")[2])
    return f"interrupted; step {step:,} is saved in {run}: cap2im train --resume {shlex.quote(str(run))} goes on"


@commands.command(epilog=examples("cap2im recipe aligndraw-small", "cap2im recipe aligndraw-small --explain"))
def recipe(
    name: Annotated[str, typer.Argument(help="A recipe's name (see cap2im list) or a TOML file.", **PLACE)],
    changes: ChangesOption = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say what each key means and what the paper has.")] = False,
) -> None:
    """Print a recipe with every key: as TOML, or explained."""
    from cap2im.config import load_recipe, settings, to_toml

    resolved = load_recipe(name, changes or [])
    if not explain:
        print(to_toml(resolved), end="")
        return
    paper = resolved.paper_recipe()
    for each in settings(resolved):
        value = "unset" if each.value is None else json.dumps(each.value, ensure_ascii=False)
        print(f"{each.key} = {value}\n    {each.meaning}")
        if paper is not None and each.paper is not None and each.key not in ("name", "description"):
            print(f"    {paper}: {json.dumps(each.paper, ensure_ascii=False)}")
