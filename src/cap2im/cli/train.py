"""`cap2im train` and `cap2im recipe`: train a model by a recipe, and print recipes."""

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

OTHER_LOAD = 0.75  # processes that run or wait to run, on average over a minute


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
        str | None,
        typer.Argument(
            help="A recipe's name (see cap2im list) or a TOML file; with --resume, a run's folder.", **PLACE | {"metavar": "RECIPE"}
        ),
    ] = None,
    changes: ChangesOption = None,
    run: Annotated[Path | None, typer.Option(help="Folder of checkpoints, log and result. [default: runs/RECIPE]", **PATH)] = None,
    name: Annotated[str, typer.Option(help="Name of the model, for its card. [default: the run folder's name]")] = "",
    data: DataOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run from its last checkpoint; recipe and data are known.")] = False,
    start_from: Annotated[str | None, typer.Option("--from", help="Model whose weights the run starts from.", **PLACE)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the whole recipe and stop; with --data also updates and time.")] = False,
    device: Annotated[Literal["auto", "cpu"], typer.Option(help="auto uses an accelerator if there is one.")] = "auto",
    compile_model: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="Compile the network: a later start, faster updates. [default: if a new run gains]"),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, max=256, help="Processes that load images.")] = 2,
    stream: Annotated[bool, typer.Option("--stream", help="Stream a dataset shard by shard, from a folder or a URL.")] = False,
    log: Annotated[Literal["tensorboard", "wandb"], typer.Option(help="Tracker that shows the log.")] = "tensorboard",
) -> None:
    """Train a model by a recipe."""
    busy = _share_processors()  # before recipes, whose modules import torch
    from cap2im.config import load_recipe, recipe_names, to_toml

    if recipe is None and not (resume and run is not None):
        raise ValueError("give a recipe (see cap2im list), or --resume and the folder of a run")
    if resume and start_from is not None:
        raise ValueError("--from begins a new run, --resume continues an old one: give one of them")
    is_folder = recipe is not None and recipe not in recipe_names() and Path(recipe).is_dir()
    if resume and recipe is not None and recipe not in recipe_names() and not Path(recipe).exists():
        raise ValueError(f"--resume {recipe}: neither the folder of a run nor a recipe (see cap2im list)")
    if resume and is_folder:
        if run is not None:
            raise ValueError(f"{recipe} and --run {run}: give one run to continue")
        run, recipe = Path(str(recipe)), None
    resolved = None if recipe is None else load_recipe(recipe, changes or [])
    if dry_run and data is None and resolved is not None:
        print(to_toml(resolved), end="")
        return
    require("training", "train", "accelerate", "tensorboard")
    if busy:
        print(busy, file=sys.stderr)
    from cap2im.loading import find_model
    from cap2im.training import dispatch as training

    options: dict[str, Any] = {"stream": stream, "device": device}
    if dry_run:
        if resolved is None:
            assert run is not None
            print(to_toml(training.run_recipe(run, changes or [])), end="")
            return
        planned, updates, seconds = training.rehearse(resolved, name=str(recipe), data=data, **options)
        duration = datetime.timedelta(seconds=round(updates * seconds))
        print(f"{to_toml(planned)}# {updates:,} updates, {seconds:.3g} s each: {duration} without validation")
        return
    options |= {
        "command": shlex.join(["cap2im", *map(training.without_local_path, sys.argv[1:])]),
        "compile_model": compile_model,
        "workers": workers,
        "log": log,
    }
    if resolved is None:
        assert run is not None
        folder, start = run, functools.partial(training.resume, run, changes or [], name=name, data=data, **options)
    else:
        label = Path(str(recipe)).stem
        folder = Path("runs") / label if run is None else run
        initial = None if start_from is None else find_model(start_from)
        resolved = training.with_name(resolved, name)
        start = functools.partial(training.train, resolved, folder, name=label, data=data, resume=resume, start_from=initial, **options)
    try:
        model = start()
    except KeyboardInterrupt:
        raise StoppedError(_resume_hint(folder)) from None
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"model written to {model}")


def _share_processors() -> str:
    """Let threads sleep instead of spin while they wait, if other programs use the processors and torch is not loaded yet.

    Spinning threads keep a processor from the thread that they wait for: a step then takes several times as long.

    Returns:
        A message about it; empty if nothing was changed.
    """
    known = "torch" in sys.modules or "OMP_WAIT_POLICY" in os.environ or os.environ.get("OMP_NUM_THREADS") == "1"
    if known or not hasattr(os, "getloadavg") or (load := os.getloadavg()[0]) < OTHER_LOAD:
        return ""
    os.environ["OMP_WAIT_POLICY"] = "passive"  # OpenMP reads it when torch is loaded
    return f"other programs use this machine (load {load:.1f}): OMP_WAIT_POLICY=passive here; OMP_NUM_THREADS=1 may be faster"


def _resume_hint(run: Path) -> str:
    """Return the last saved step of an interrupted run, and the command that continues it."""
    from cap2im.checkpoint import checkpoints

    if not (saved := checkpoints(run)):
        return f"interrupted before the first checkpoint of {run}; the same command starts it again"
    step = int(saved[-1].name.rpartition("-")[2])
    return f"interrupted; step {step:,} is saved in {run}: cap2im train --resume {shlex.quote(str(run))} continues"


@commands.command(epilog=examples("cap2im recipe aligndraw-small", "cap2im recipe aligndraw-small --explain"))
def recipe(
    name: Annotated[str, typer.Argument(help="A recipe's name (see cap2im list) or a TOML file.", **PLACE | {"metavar": "RECIPE"})],
    changes: ChangesOption = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show the meaning of each key, and where the paper's value differs.")] = False,
) -> None:
    """Print a recipe with every key: as TOML, or explained."""
    from cap2im.config import load_recipe, settings, to_toml

    resolved = load_recipe(name, changes or [])
    if not explain:
        print(to_toml(resolved), end="")
        return
    explained = settings(resolved)
    if any(each.differs for each in explained):
        print(f'"paper" marks the values of {resolved.paper_recipe()} that differ.\n')
    for each in explained:
        value = "unset" if each.value is None else json.dumps(each.value, ensure_ascii=False)
        print(f"{each.key} = {value}\n    {each.meaning}")
        if each.differs:
            print(f"    paper: {json.dumps(each.paper, ensure_ascii=False)}")
