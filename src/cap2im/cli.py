"""The command line: a thin typed layer over functions that can be imported. Bad input ends in one line and exit status 2."""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import errno
import functools
import io
import itertools
import json
import os
import re
import shlex
import sys
import tomllib
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

import cap2im
from cap2im.data.source_kinds import Kind
from cap2im.evaluation.report import print_check, print_evaluation
from cap2im.files import (
    LARGEST_DOCUMENT,
    atomic_path,
    check_writable_file,
    check_writable_folder,
    decode_text,
    dump_json,
    explain,
    read_text,
    shortened,
    split_lines,
    write_atomically,
)

if TYPE_CHECKING:
    from cap2im.data.mnist import Split
    from cap2im.evaluation.evaluate import Measures
    from cap2im.models.lapgan import SharpenerConfig
    from cap2im.pipeline import Pipeline

app = typer.Typer(
    name="cap2im",
    help="Images from captions with attention: alignDRAW and its relatives.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console(stderr=True, highlight=False)

RESUMING = {
    "train": "; --resume goes on from the last checkpoint, if there was one yet",
    "prepare": "; --resume goes on from the last whole shard",
    "generate": "; --resume draws what is missing",
}
FAILING_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
# what to lower where memory runs out, by the command
SMALLER = {
    "draw": "ask for fewer --samples or captions at a time, or a smaller --model",
    "generate": "give fewer captions at a time, or a smaller --model",
    "train": "lower train.batch_size (--set train.batch_size=N) or the sizes of the model",
    "prepare": "lower --workers or --side",
    "check": "lower --workers",
    "serve": "lower --batch or --workers, or serve fewer models",
    "evaluate": "lower --samples, or evaluate a smaller model",
    "compare": "lower --samples, or compare fewer models",
}

# typer carries its own copy of click's exceptions, or click's, by its version; they share a base class
USAGE_ERROR: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def _place(text: Any) -> str:
    """Expand `~` in a path that may also be a name or a URL; the shell leaves it in quotes and after `=`."""
    return os.path.expanduser(str(text))


def _path(text: Any) -> Path:
    return Path(_place(text))


def _file(text: Any) -> Path:
    if (path := _path(text)).is_file():
        return path
    raise typer.BadParameter(f"{path}: {'is a folder, and a file is needed' if path.is_dir() else 'no such file'}")


def _folder(text: Any) -> Path:
    if (path := _path(text)).is_dir():
        return path
    raise typer.BadParameter(f"{path}: {'is a file, and a folder is needed' if path.exists() else 'no such folder'}")


def _existing(text: Any) -> Path:
    if (path := _path(text)).exists():
        return path
    raise typer.BadParameter(f"{path}: no such file or folder")


# how parameters that name paths are read: with `~` expanded
PLACE: dict[str, Any] = {"parser": _place, "metavar": "TEXT"}
PATH: dict[str, Any] = {"parser": _path, "metavar": "PATH"}
FILE: dict[str, Any] = {"parser": _file, "metavar": "FILE"}
FOLDER: dict[str, Any] = {"parser": _folder, "metavar": "FOLDER"}
EXISTING: dict[str, Any] = {"parser": _existing, "metavar": "PATH"}

ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="Bundled name, folder, run, or OWNER/NAME on the Hugging Face hub.", **PLACE)
]
SharpenOption = Annotated[
    str | None, typer.Option(help="A sharpener for the finished pictures: a folder, run, or OWNER/NAME on the hub.", **PLACE)
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")]
PrecisionOption = Annotated[
    Literal["fp32", "bf16"], typer.Option(help="What to draw in; bf16 is faster where the machine has it, and slightly other.")
]


def _examples(*lines: str) -> str:
    """The examples below a command's help, one a line."""
    return "Examples:\n\n" + "\n\n".join(f"  {line}" for line in lines)


DataOption = Annotated[
    str | None,
    typer.Option("--data", help="A prepared dataset (or its URL), sentences, or the folder of MNIST's files, else downloaded.", **PLACE),
]


class DrawingPart(StrEnum):
    """A part of a drawing that `cap2im draw --only` writes; typer wants an enumeration for an option that may be repeated."""

    PNG = "png"
    GIF = "gif"
    ATTENTION = "attention"
    HTML = "html"


def main() -> None:
    """Runs the command line; the entry point of `cap2im`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a locale without UTF-8 cannot print every caption
    try:
        _refuse_empty_values(sys.argv[1:])
        code = app(standalone_mode=False)
    except USAGE_ERROR as error:
        message, code = getattr(error, "format_message", error.__str__)() + _setting_hint(error), 2
    except StoppedError as error:
        message, code = str(error), 130
    except (ValueError, OSError) as error:
        message, code = explain(error), 2
        if getattr(error, "errno", None) in FAILING_DISK and "--resume" not in message:
            message += RESUMING.get("".join(sys.argv[1:2]), "")
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        message, code = f"out of memory: {SMALLER.get(''.join(sys.argv[1:2]), 'use a machine with more')}", 2
    except (KeyboardInterrupt, typer.Abort):
        message, code = "", 130
    else:
        message = ""
    if code == 130 and not message:
        message = "interrupted" + RESUMING.get("".join(sys.argv[1:2]), "")
    if message:
        print(f"cap2im: {message}", file=sys.stderr)
    status = code if isinstance(code, int) else 0
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # one of several processes: torch's threads can abort while the interpreter is torn down
    sys.exit(status)


def _refuse_empty_values(arguments: list[str]) -> None:
    """Raise ValueError where an option has an empty value, as `--out "$OUT"` gives if OUT is not set: it would be the folder we are in."""
    for option, value in itertools.pairwise([*arguments, "-"]):
        name, equals, own = option.partition("=")
        if option.startswith("-") and (value == "" or (equals and name.startswith("--") and own == "")):
            raise ValueError(f"{name}: its value is empty")


def _out_of_memory(error: Exception) -> bool:
    """Return whether memory has run out: Python and NumPy raise MemoryError, torch a RuntimeError that only its text tells apart."""
    texts = ("not enough memory", "can't allocate memory", "Cannot allocate memory", "out of memory")
    return isinstance(error, MemoryError) or any(text in str(error) for text in texts)


class StoppedError(Exception):
    """A command that was stopped, with what to tell."""


def _setting_hint(error: Exception) -> str:
    """How to change a setting of a recipe that was typed as an option of its own, e.g. `train --epochs 3`."""
    option = getattr(error, "option_name", None)
    if option is None or sys.argv[1:2] != ["train"]:
        return ""
    from cap2im.config import setting_keys

    name = option.lstrip("-").replace("-", "_")
    words = [*sys.argv, ""]
    typed = next((place for place, word in enumerate(words) if word.partition("=")[0] == option), len(sys.argv))
    value = words[typed].partition("=")[2] or "".join(words[typed + 1 : typed + 2]) or "VALUE"
    keys = {key.rpartition(".")[2]: key for key in reversed(setting_keys())}  # the first of those that end alike
    near = difflib.get_close_matches(name, keys, n=1, cutoff=0.8)
    return "".join(f"; --set {keys[each]}={value} changes that setting of the recipe" for each in near)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    if version:
        print(cap2im.__version__)
        raise typer.Exit


def _read_text(file: Path) -> str:
    """Return the text of a file, or of standard input (`-`), in UTF-8 or with the byte order mark of another Unicode encoding."""
    if str(file) != "-":
        return read_text(file)
    data = sys.stdin.buffer.read(LARGEST_DOCUMENT + 1)
    if len(data) > LARGEST_DOCUMENT:
        raise ValueError(f"standard input: at most {LARGEST_DOCUMENT:,} bytes are read")
    return decode_text(data, "standard input")


def _captions_in(file: Path) -> list[list[str]]:
    """Return the captions of a file or of standard input (`-`), one a line, in groups that empty lines separate."""
    from cap2im.data.records import data_format  # slow to import

    lines = [line.strip() for line in split_lines(_read_text(file))]
    for number, line in enumerate(lines, 1):
        if (reason := data_format(line)) is not None:
            raise ValueError(f"{file}, line {number}: one caption a line is read, and {reason}: {shortened(line, 50)}")
    groups = [list(group) for filled, group in itertools.groupby(lines, key=bool) if filled]
    if not groups:
        raise ValueError(f"{file}: no captions in it")
    return groups


def _decoded(argument: str) -> str:
    """Return an argument of the command line as the UTF-8 that it is, whatever the locale says.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        return argument.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        raise ValueError(f"caption {shortened(repr(argument))}: not UTF-8") from None


def _read_captions(captions: list[str], file: Path | None) -> list[str]:
    """Return the captions of the arguments and of a file or standard input (`-`).

    Several arguments that are single words are one caption: its quotes were forgotten.
    """
    captions = [_decoded(caption) for caption in captions]
    if len(captions) > 1 and not any(re.search(r"\s", caption.strip()) for caption in captions):
        captions = [" ".join(captions)]
        print(f"one caption: {captions[0]!r}; to draw several, put each in quotes or in a line of --captions FILE", file=sys.stderr)
    if file is not None:
        captions = [*captions, *(caption for group in _captions_in(file) for caption in group)]
    return captions


@app.command(
    epilog=_examples(
        'cap2im draw "the digit three is at the top of the digit one" --samples 8',
        "cap2im draw --file captions.txt --model runs/mine --samples 1 --only png",
        "cap2im draw --file captions.txt --sharpen runs/sharp --out drawings",
        "echo 'the digit 7 is at the top left of the image' | cap2im draw --file -",
    )
)
def draw(
    captions: Annotated[list[str] | None, typer.Argument(help="What to draw; each caption in quotes.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "--captions", "-f", help="Captions, one a line; - is standard input.", **PATH)
    ] = None,
    model: ModelOption = cap2im.DEFAULT_MODEL,
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, max=1000, help="Pictures of each caption.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Picture k comes from seed + k.")] = 0,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder to write into; each caption gets a folder there, which replaces its earlier drawing.", **PATH
        ),
    ] = Path("drawings"),
    only: Annotated[
        list[DrawingPart] | None,
        typer.Option("--only", help="Write these alone: pictures, animation, attention, page; may be repeated. [default: all]"),
    ] = None,
    sharpen: SharpenOption = None,
    unknown: Annotated[
        Literal["error", "skip"], typer.Option(help="Words that the model does not know: refuse the caption, or leave them out.")
    ] = "error",
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "fp32",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON on standard output.")] = False,
) -> None:
    """Draw captions: pictures, an animation, the attention over words, and an interactive page."""
    wanted = _read_captions(captions or [], file)
    if not wanted and model == cap2im.DEFAULT_MODEL:
        raise ValueError('no caption given; try: cap2im draw "the digit three is at the top of the digit one"')
    check_writable_folder(out)
    from cap2im.pipeline import Pipeline
    from cap2im.rendering.drawing import (  # torch takes a second to import: bad arguments need not wait
        PARTS,
        drawn_by,
        folder_for,
        save_all,
        slug,
    )

    pipeline = Pipeline.load(model, device=device, sharpen=sharpen, precision=precision)
    if not wanted:
        example = shlex.quote(pipeline.examples[0]) if pipeline.examples else "CAPTION"
        raise ValueError(f"no caption given; try: cap2im draw {example} --model {shlex.quote(model)}")
    read = dict(zip(wanted, pipeline.tokens(wanted, unknown), strict=True))  # all problems of all captions, before anything is drawn
    out.mkdir(parents=True, exist_ok=True)
    if unknown == "skip":
        for caption in read:
            if strangers := pipeline.strangers(caption):
                print(f"left out of '{caption}': {', '.join(strangers)}", file=sys.stderr)
    drawer = pipeline.drawer
    one_of_each = {slug(caption): caption for caption in reversed(wanted)}  # captions of the same words share a folder: the first is drawn
    first = [caption for caption in read if one_of_each[slug(caption)] == caption]
    captions_of, seeds = [caption for caption in first for _ in range(samples)], [seed + k for _ in first for k in range(samples)]
    pictures = pipeline.iterate(captions_of, seeds, unknown=unknown)
    drawn: dict[str, dict[str, Any]] = {}
    quiet = len(first) * samples < 8  # a second or two
    for caption in track(first, "drawing", console=console, disable=quiet):
        drawings = list(itertools.islice(pictures, samples))
        folder = folder_for(caption, drawer, out)
        replaced = drawn_by(folder) is not None
        saved = save_all(drawings, folder, PARTS if only is None else [part.value for part in only])
        drawn[slug(caption)] = {"files": [str(path) for path in saved.paths], "replaced": replaced}
        if not as_json:
            shown = saved.page or (saved.paths[0] if saved.paths else f"{folder}: nothing of that kind")
            more = f" and {beside} file{'s' * (beside > 1)} beside it" if (beside := len(saved.paths) - 1) > 0 else ""
            print(f"{caption}\n  {shown}{more}{', in place of the drawing that was there' if replaced else ''}")
    if as_json:
        same = {"model": pipeline.name, "precision": pipeline.precision, "seed": seed}
        written = [{"caption": each, "words": read[each].words} | same | drawn[slug(each)] for each in wanted]
        print(json.dumps(written, indent=1, ensure_ascii=False))


@app.command(
    epilog=_examples(
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
        "accelerate launch --multi_gpu --num_processes 2 -m cap2im train aligndraw-mnist",
    )
)
def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe's name (see cap2im list) or a TOML file; with --resume, a run's folder.", **PLACE)
    ] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE: change a value of the recipe; may be repeated.")] = None,
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
    _needs_training()
    from cap2im.pipeline import find_model
    from cap2im.training import dispatch as training
    from cap2im.training.state import open_run

    how: dict[str, Any] = {"stream": stream, "device": device}
    if dry_run:
        if resolved is None:
            assert run is not None
            print(to_toml(open_run(run, changes or [])[0]), end="")
            return
        planned, updates, seconds = training.rehearse(resolved, name=str(recipe), data=data, **how)
        whole = datetime.timedelta(seconds=round(updates * seconds))
        print(f"# {updates:,} updates of {seconds:.3g} s: {whole}, and validation comes on top\n{to_toml(planned)}", end="")
        return
    how |= {"command": shlex.join(["cap2im", *map(training.shareable, sys.argv[1:])]), "compile_model": compile_model, "workers": workers}
    if resolved is None:
        assert run is not None
        folder, go_on = run, functools.partial(training.resume, run, changes or [], name=name, data=data, **how)
    else:
        label = Path(str(recipe)).stem
        folder = Path("runs") / label if run is None else run
        begun = None if start_from is None else find_model(start_from)
        resolved = training.named(resolved, name)
        go_on = functools.partial(training.start, resolved, folder, name=label, data=data, resume=resume, start_from=begun, **how)
    try:
        result = go_on()
    except KeyboardInterrupt:
        raise StoppedError(_where_it_stopped(folder)) from None
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"model written to {result}")


def _needs_training() -> None:
    if any(find_spec(package) is None for package in ("accelerate", "tensorboard")):
        raise ValueError("training needs more than the core; in the checkout: pip install -c constraints.txt '.[train]'")


def _where_it_stopped(run: Path) -> str:
    """What an interrupted training left, and how to go on."""
    from cap2im.checkpoint import checkpoints

    if not (found := checkpoints(run)):
        return f"interrupted before the first checkpoint of {run}"
    step = int(found[-1].name.rpartition("-")[2])
    return f"interrupted; step {step:,} is saved in {run}: cap2im train --resume {shlex.quote(str(run))} goes on"


@app.command(epilog=_examples("cap2im recipe aligndraw-small", "cap2im recipe aligndraw-small --explain"))
def recipe(
    name: Annotated[str, typer.Argument(help="A recipe's name (see cap2im list) or a TOML file.", **PLACE)],
    changes: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE: change a value of the recipe; may be repeated.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say what each key means and what the paper has.")] = False,
) -> None:
    """Print a recipe with every key: as TOML, or explained."""
    from cap2im.config import load_recipe, paper_recipe, settings, to_toml

    resolved = load_recipe(name, changes or [])
    if not explain:
        print(to_toml(resolved), end="")
        return
    paper = paper_recipe(resolved)
    for each in settings(resolved):
        value = "unset" if each.value is None else json.dumps(each.value, ensure_ascii=False)
        print(f"{each.key} = {value}\n    {each.meaning}")
        if paper is not None and each.paper is not None and each.key not in ("name", "description"):
            print(f"    {paper}: {json.dumps(each.paper, ensure_ascii=False)}")


SplitOption = Annotated[
    Literal["train", "validation", "test", "all"] | None,
    typer.Option(
        help="Images, or digits, to measure on; all estimates the bound on each split of the dataset, and the rest on the last one. "
        "[default: test, or validation where there is no test]"
    ),
]
ImagesOption = Annotated[int, typer.Option(min=2, max=1_000_000, help="Captions with their images, or canvases of digits.")]
BoundSamplesOption = Annotated[int, typer.Option(min=1, max=10_000, help="L, posterior samples an image for the bound.")]
SamplesOption = Annotated[
    int | None, typer.Option(min=1, max=10_000, help="Drawings of a caption. [default: 10 of captioned digits, 50 for --similarity]")
]
ShortlistOption = Annotated[
    str | None, typer.Option(help="Measure image retrieval: a VGG-like network (run or folder), or a pickle of shortlists.", **PLACE)
]
CandidatesOption = Annotated[int | None, typer.Option(min=2, max=100_000, help="Images of a shortlist of the network. [default: 100]")]
SimilarityOption = Annotated[bool, typer.Option("--similarity", help="Compare drawings with the images of their captions.")]
FIDOption = Annotated[bool, typer.Option("--fid", help="FID and Inception Score of one drawing of each caption; FID against all images.")]
InceptionOption = Annotated[
    str | None, typer.Option("--inception", help="File of pytorch-fid's Inception weights. [default: the cache, else downloaded]", **PLACE)
]
DAMSMOption = Annotated[
    str | None, typer.Option("--damsm", help="R-precision of the drawings, by a matching model: a run or folder.", **PLACE)
]
NeuralOption = Annotated[
    bool, typer.Option("--neural-distance", help="Its features and FID's in one space, learned on the training split: the fork's score.")
]


@app.command(
    epilog=_examples(
        "cap2im evaluate aligndraw-mnist --data mnist/",
        "cap2im evaluate runs/aligndraw-mnist --data mnist/ --samples 2 --out quick.json",
        "cap2im evaluate runs/mine --data prepared/ --split all --similarity",
        "cap2im evaluate runs/mine --data prepared/ --shortlist runs/vgg-cifar --images 200",
        "cap2im evaluate runs/attngan --data prepared/ --split validation --fid --damsm runs/damsm --images 30000",
        "accelerate launch --multi_gpu --num_processes 2 -m cap2im evaluate runs/mine --data prepared/",
    )
)
def evaluate(
    model: Annotated[
        str, typer.Argument(help="Bundled name, folder, run, or OWNER/NAME on the Hugging Face hub.", **PLACE)
    ] = cap2im.DEFAULT_MODEL,
    data: DataOption = None,
    split: SplitOption = None,
    images: ImagesOption = 1000,
    bound_samples: BoundSamplesOption = 16,
    samples: SamplesOption = None,
    shortlist: ShortlistOption = None,
    candidates: CandidatesOption = None,
    retrieval_samples: Annotated[int, typer.Option(min=1, max=10_000, help="L of the bounds that retrieval compares.")] = 1,
    similarity: SimilarityOption = False,
    fid: FIDOption = False,
    inception: InceptionOption = None,
    damsm: DAMSMOption = None,
    neural_distance: NeuralOption = False,
    sharpen: SharpenOption = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "fp32",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="JSON file; keeps results of other protocols. [default: evaluation-MODEL.json]", **PATH),
    ] = None,
) -> None:
    """Measure a model: bound, caption accuracy on digits, image retrieval, similarity of drawings, FID, Inception Score, R-precision."""
    if out is not None:
        check_writable_file(out)
    from cap2im.evaluation.comparison import check_evaluation_file, identity, keep_evaluation
    from cap2im.evaluation.evaluate import Measures, Subject
    from cap2im.evaluation.evaluate import evaluate as measure
    from cap2im.metrics.distributed import Sharing
    from cap2im.pipeline import Pipeline

    asked: dict[str, Any] = {
        "split": split,
        "images": images,
        "bound_samples": bound_samples,
        "samples": samples,
        "shortlist": shortlist,
        "candidates": candidates,
        "retrieval_samples": retrieval_samples,
        "similarity": similarity,
        "fid": fid,
        "inception": inception,
        "damsm": damsm,
        "neural_distance": neural_distance,
        "seed": seed,
    }
    measures = Measures(**asked)
    pipeline = Pipeline.load(model, device=device, sharpen=sharpen, precision=precision)
    target = out if out is not None else Path(f"evaluation-{pipeline.name}.json")
    check_evaluation_file(target)
    Subject.of(pipeline).check(data, measures)
    protocol = identity(pipeline, {"data": data, **asked})
    sharing = Sharing.launched()
    result = measure(pipeline, data=data, sharing=sharing, **asked)
    if sharing.is_first:
        print_evaluation(result, sharpen)
        others = keep_evaluation(target, {**result, "asked": protocol})
        kept = f", beside {others} of other weights or protocols" if others else ""
        print(f"written to {target}{kept}")


PRESETS = {
    "mnist": (
        "aligndraw-mnist",
        "noaligndraw-mnist",
        "draw-mnist",
        "attngan-mnist",
        "conv-vae-mnist",
        "fc-vae-mnist",
        "lapgan-mnist",
    )
}


@app.command(
    epilog=_examples(
        "cap2im compare aligndraw-mnist runs/mine --data mnist/",
        "cap2im compare --preset mnist --data mnist/ --train",
        "cap2im compare runs/align runs/noalign --data data/photos --out comparison",
    )
)
def compare(
    models: Annotated[list[str] | None, typer.Argument(help="Models, as for cap2im evaluate, or names of recipes.", **PLACE)] = None,
    preset: Annotated[Literal["mnist"] | None, typer.Option(help="mnist: every model of MNIST with captions.")] = None,
    data: DataOption = None,
    train_missing: Annotated[
        bool, typer.Option("--train", help="Train the recipes that have no model yet, on the accelerator if there is one; may take hours.")
    ] = False,
    runs: Annotated[Path, typer.Option(help="Folder of the recipes' runs.", **PATH)] = Path("runs"),
    split: SplitOption = None,
    images: ImagesOption = 1000,
    bound_samples: BoundSamplesOption = 16,
    samples: SamplesOption = None,
    shortlist: ShortlistOption = None,
    candidates: CandidatesOption = None,
    similarity: SimilarityOption = False,
    fid: FIDOption = False,
    inception: InceptionOption = None,
    damsm: DAMSMOption = None,
    neural_distance: NeuralOption = False,
    sharpen: SharpenOption = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "fp32",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the tables, the picture and the evaluations.", **PATH)] = Path(
        "comparison"
    ),
) -> None:
    """Measure several models and write one table: Markdown, JSON and a picture. Numbers of different protocols get columns of their own."""
    from cap2im.evaluation.comparison import compare as table_of
    from cap2im.evaluation.comparison import evaluated, free_stem
    from cap2im.evaluation.evaluate import Measures
    from cap2im.evaluation.figures import comparison_picture, needs_matplotlib
    from cap2im.pipeline import Pipeline, Sharpening

    names = [*(models or []), *(PRESETS[preset] if preset else ())]
    if not names:
        raise ValueError("no model given; name some, or add --preset mnist")
    if preset is not None and (shortlist is not None or similarity or fid or split == "all"):
        raise ValueError(f"--preset {preset}: captioned digits have no --shortlist, no --similarity, no --fid and no --split all")
    check_writable_folder(out)
    needs_matplotlib()
    asked: dict[str, Any] = {"split": split, "images": images, "bound_samples": bound_samples, "samples": samples, "seed": seed}
    asked |= {"shortlist": shortlist, "candidates": candidates, "similarity": similarity, "fid": fid, "inception": inception}
    asked |= {"damsm": damsm, "neural_distance": neural_distance}
    measures = Measures(**asked)  # what contradicts itself is told before anything is trained
    sharpening = None if sharpen is None else Sharpening.load(sharpen, device=device)
    found, missing = _models_to_compare(names, runs, train_missing)

    def load(name: str, where: str) -> Pipeline:
        pipeline = Pipeline.load(where, device=device, precision=precision)
        return dataclasses.replace(pipeline if sharpening is None else pipeline.sharpened(sharpening), name=name)

    pipelines = {name: load(name, where) for name, where in found.items()}
    _check_comparison(list(pipelines.values()), missing, data, measures, None if sharpening is None else sharpening.model.config)
    if missing:
        check_writable_folder(runs)
        pipelines |= {name: load(name, str(_train_for_comparison(name, runs, data))) for name in missing}
    ordered = [pipelines[label] for label in map(_label, names)]
    picture = comparison_picture(ordered, seed)  # what cannot be drawn is told before hours of measuring
    out.mkdir(parents=True, exist_ok=True)
    results = [evaluated(each, out / "evaluations" / f"{each.name}.json", data=_data_for(each, data), **asked) for each in ordered]
    table = table_of(results)
    of = {result["model"]: {"weights_sha256": result["weights_sha256"], "asked": result["asked"]} for result in results}
    stem = free_stem(out, "comparison", of)
    with atomic_path(out / f"{stem}.png") as draft:
        picture.savefig(draft, dpi=144, format="png")
    write_atomically(out / f"{stem}.md", table.markdown())
    write_atomically(out / f"{stem}.json", dump_json(table.to_dict() | {"of": of}) + "\n")
    print(table.markdown())
    if stem != "comparison":
        print(f"{out}: comparison.md there is of other models or another protocol, and stays", file=sys.stderr)
    print(f"written to {out}: {stem}.md, {stem}.json, {stem}.png, evaluations/")


def _label(name: str) -> str:
    """Return what a model is called in a table: the last part of its name, of "." and "..", too."""
    return Path(name).resolve().name


def _models_to_compare(names: list[str], runs: Path, train_missing: bool) -> tuple[dict[str, str], list[str]]:
    """Return where each model is, by its label: a recipe's run, or what `cap2im evaluate` would take; and the recipes without either.

    Raises:
        ValueError: a model is missing, or two are of one name; all problems are told at once.
    """
    from cap2im.checkpoint import existing_folder
    from cap2im.config import load_recipe, recipe_names
    from cap2im.pipeline import find_model
    from cap2im.registry import MODELS

    found: dict[str, str] = {}
    missing: list[str] = []
    problems: list[str] = []
    for name in names:
        label, run = _label(name), runs / name
        if label in (*found, *missing):
            problems.append(f"two models are called {label!r}")
            continue
        try:
            found[label] = str(find_model(str(run) if existing_folder(run / "model").is_dir() else name))
        except ValueError as error:
            if name not in recipe_names():
                problems.append(str(error))
            elif not MODELS[kind := load_recipe(name, []).kind].draws:
                problems.append(f"{name}: a recipe of kind {kind!r} makes nothing that draws")
            else:
                missing.append(name)
    if problems or (missing and not train_missing):
        untrained = f"not trained yet: {', '.join(missing)}; add --train, or train them into {runs}/RECIPE" if missing else ""
        raise ValueError("; ".join([*problems, untrained] if untrained else problems))
    return found, missing


def _data_for(pipeline: Pipeline, data: str | None) -> str | None:
    """Return the data that a model of a comparison is measured on: those of scikit-learn's digits need none."""
    from cap2im.evaluation.evaluate import Subject

    return None if Subject.of(pipeline).digits == "digits" else data


def _check_comparison(
    pipelines: list[Pipeline], missing: list[str], data: str | None, measures: Measures, sharpener: SharpenerConfig | None
) -> None:
    """Check all that can be checked of a comparison before anything is trained or measured.

    Args:
        pipelines: models that exist.
        missing: recipes that will be trained.
        data: what all are trained and measured on.
        measures: what to measure.
        sharpener: of the pictures, or None.

    Raises:
        ValueError: something is missing, or does not fit.
    """
    from cap2im.config import DigitsData, DrawingRecipe, PicturesData, load_recipe
    from cap2im.data.canvas_batches import load_digits
    from cap2im.data.dataset import PreparedDataset
    from cap2im.evaluation.evaluate import Subject
    from cap2im.training.data import fitted, sentence_encoder

    recipes = {name: recipe for name in missing if isinstance(recipe := load_recipe(name, []), DrawingRecipe)}
    if recipes:
        _needs_training()
    digits_split: Split = "test" if measures.split is None or measures.split == "all" else measures.split
    for subject in (*map(Subject.of, pipelines), *(Subject.of_recipe(name, recipe) for name, recipe in recipes.items())):
        wanted = measures if subject.ranks_images else dataclasses.replace(measures, shortlist=None, candidates=None)
        own = None if subject.digits == "digits" else data
        subject.check(own, wanted)
        subject.check_judges(wanted)
        if subject.digits is not None:
            load_digits(subject.digits, digits_split, None if own is None else Path(own))
        if sharpener is not None and (sharpener.side, sharpener.colours) != (subject.config.side, subject.config.colours):
            raise ValueError(f"the sharpener does not fit {subject.name}: it sharpens {sharpener.side} x {sharpener.side} pixels")
    for recipe in recipes.values():
        if not isinstance(recipe.data, DigitsData):
            fitted(recipe, PreparedDataset.open(str(data)), resizes=isinstance(recipe.data, PicturesData))
            sentence_encoder(recipe)


def _train_for_comparison(name: str, runs: Path, data: str | None) -> Path:
    """Train a recipe, and before it the matching model that an AttnGAN learns from; returns the model's folder."""
    from cap2im.checkpoint import checkpoints, existing_folder
    from cap2im.config import AttnGANRecipe, load_recipe

    def trained(name: str, *changes: str) -> Path:
        source = getattr(getattr(load_recipe(name, []), "data", None), "source", None)
        own = None if source == "digits" else data  # scikit-learn's digits need no data
        train(name, list(changes), run=runs / name, data=own, resume=bool(checkpoints(runs / name)))
        return runs / name / "model"

    changes = []
    if isinstance(recipe := load_recipe(name, []), AttnGANRecipe):
        judge = Path(recipe.train.damsm).name
        changes = [f"train.damsm={runs / judge}"]
        if not existing_folder(runs / judge / "model").is_dir():
            trained(judge)
    return trained(name, *changes)


@app.command(
    epilog=_examples(
        "cap2im figures aligndraw-mnist --out figures",
        "cap2im figures aligndraw-mnist --data mnist/ --sharpen runs/sharpener-mnist",
        "cap2im figures runs/photos --data data/photos --captions flips.txt",
    )
)
def figures(
    model: Annotated[
        str, typer.Argument(help="Bundled name, folder, run, or OWNER/NAME on the Hugging Face hub.", **PLACE)
    ] = cap2im.DEFAULT_MODEL,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write into.", **PATH)] = Path("figures"),
    captions: Annotated[
        Path | None,
        typer.Option("--captions", help="Captions to flip, one a line; empty lines separate groups. - is standard input.", **PATH),
    ] = None,
    data: DataOption = None,
    sharpen: SharpenOption = None,
    seed: Annotated[int, typer.Option(min=0, help="One seed for all drawings.")] = 0,
    device: DeviceOption = "cpu",
) -> None:
    """Draw the figures of the paper: flipped captions, attended words, nearest training images, sharpening, captions never seen."""
    check_writable_folder(out)
    from cap2im.evaluation.figures import check_figures, folder_for, nearest_training_images, needs_matplotlib, subjects, write_figures
    from cap2im.pipeline import Pipeline

    needs_matplotlib()
    groups = [] if captions is None else _captions_in(captions)
    pipeline = Pipeline.load(model, device=device, sharpen=sharpen)
    wanted = subjects(pipeline, groups)
    if wanted.unknown:
        print(f"left out, for words that {pipeline.name} does not know: {'; '.join(wanted.unknown)}", file=sys.stderr)
    folder = folder_for(pipeline.name, out)
    check_figures(pipeline, wanted, folder)
    if folder != out:
        print(f"{out}: holds figures of another model, which stay; writing to {folder}", file=sys.stderr)
    elif (folder / "figure-3-caption-flips.png").exists() or (folder / "captions-of-its-data.png").exists():
        print(f"{folder}: holds figures of {pipeline.name}, which are drawn anew", file=sys.stderr)
    if data is not None and pipeline.config.get("data", {}).get("source") == "digits":
        print(f"--data {data}: is not read, for the digits of {pipeline.name} are inside scikit-learn", file=sys.stderr)
    nearest = None if data is None else nearest_training_images(pipeline, data)
    for path in write_figures(pipeline, folder, wanted, seed=seed, nearest=nearest):
        print(path)


PairsSeedOption = Annotated[int, typer.Option(min=0, help="Of the pictures, and of which images are sampled.")]


@app.command(
    epilog=_examples(
        "cap2im generate runs/mine --data data/coco --out generated",
        "cap2im generate runs/mine --data data/coco --out generated --resume",
        "cap2im generate runs/mine --data data/coco --split test --sample 10000 --real --out pairs",
        "accelerate launch --multi_gpu --num_processes 2 -m cap2im generate runs/mine --data data/coco --device cuda",
    )
)
def generate(
    model: Annotated[str, typer.Argument(help="Bundled name, folder, run, or OWNER/NAME on the Hugging Face hub.", **PLACE)],
    data: Annotated[str, typer.Option("--data", help="A prepared dataset.", **PLACE)],
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Whose captions to draw.")] = "validation",
    per_caption: Annotated[int, typer.Option(min=1, max=10_000, help="Pictures of each caption.")] = 1,
    sample: Annotated[int | None, typer.Option(min=1, help="Draw a picture of each of so many random images alone, none twice.")] = None,
    real: Annotated[bool, typer.Option("--real", help="Write the real images, too, at the model's side.")] = False,
    seed: PairsSeedOption = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder for pictures, pairs.jsonl and manifest.json.", **PATH)] = Path(
        "generated"
    ),
    resume: Annotated[bool, typer.Option("--resume", help="Draw what is missing of an interrupted run.")] = False,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "fp32",
) -> None:
    """Draw all captions of a dataset, a file each; several processes share the work."""
    _needs_datasets()
    check_writable_folder(out)
    from cap2im.data.dataset import PreparedDataset
    from cap2im.files import JSONObject, read_json

    dataset = PreparedDataset.open(data)
    dataset.shards(split)  # raises where there are none
    from cap2im.generation import generate as generate_pictures
    from cap2im.metrics.distributed import Sharing
    from cap2im.pipeline import Pipeline

    pipeline, sharing = Pipeline.load(model, device=device, precision=precision), Sharing.launched()
    how: dict[str, Any] = {"split": split, "per_caption": per_caption, "sample": sample, "real": real, "seed": seed, "resume": resume}
    pairs = generate_pictures(pipeline, dataset, out, sharing=sharing, **how)
    if sharing.is_first:
        told = read_json(out / "manifest.json", JSONObject).root
        if told["captions_left_out"]:
            print(f"left out: {told['captions_left_out']:,} captions, for {pipeline.name} knows none of their words", file=sys.stderr)
        print(f"{len(pairs):,} pictures of {told['images']:,} images: written to {out}")


@app.command(epilog=_examples("cap2im sample generated --count 10000 --out pairs"))
def sample(
    folder: Annotated[Path, typer.Argument(help="What cap2im generate --real made.", **FOLDER)],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Images, each with one of its pictures.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder; gets real/ and generated/, with equal file names.", **PATH)],
    seed: PairsSeedOption = 0,
) -> None:
    """Take random pairs of a generated picture and its real image, no image twice."""
    from cap2im.generation import sample_pairs

    print(f"{len(sample_pairs(folder, count, out, seed=seed)):,} pairs: written to {out}")


TokensOption = Annotated[
    Literal["released", "attngan"] | None,
    typer.Option(help="How captions are split: as alignDRAW or as AttnGAN did. [default: as the source's vocabulary does, else released]"),
]
WorkersOption = Annotated[int | None, typer.Option(min=1, max=1024, help="Processes that read images. [default: one for each processor]")]
ImageColumnOption = Annotated[str | None, typer.Option(help="Column of a table with the images, or their file names. [default: guessed]")]
CaptionColumnOption = Annotated[
    list[str] | None, typer.Option(help="Column of a table with captions; may be repeated, and captions add up. [default: guessed]")
]
SplitColumnOption = Annotated[str | None, typer.Option(help="Column of a table with train, validation or test. [default: split]")]
ImagesFolderOption = Annotated[
    str | None, typer.Option("--images", help="Folder that a table's file names are relative to. [default: the table's]", **PLACE)
]


def _needs_datasets() -> None:
    try:
        import datasets  # noqa: F401
    except ImportError:
        raise ValueError("preparing data needs more than the core; in the checkout: pip install -c constraints.txt '.[train]'") from None


@app.command(
    epilog=_examples(
        "cap2im prepare coco coco/ --out data/coco --captions 5",
        "cap2im prepare folder photos/ --out data/photos --side 56 --fit crop --validation 0.1",
        "cap2im prepare pairs photos/ --out data/photos --resume",
        "cap2im prepare flickr8k Flickr8k/ --out data/flickr8k",
        "cap2im prepare table list.csv --images photos/ --image-column file --caption-column title --out data/photos",
        "cap2im prepare huggingface OWNER/NAME --out data/name --caption-column text",
        "cap2im prepare webdataset 'shards/{0000..0099}.tar' --out data/shards",
    )
)
def prepare(
    kind: Annotated[Kind, typer.Argument(help="What PATH is: see docs/guides/own-captions.md.", show_choices=True)],
    path: Annotated[str, typer.Argument(help="A folder or file; for huggingface also a name on the hub.", **PLACE)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the prepared dataset.", **PATH)],
    side: Annotated[int, typer.Option(min=4, max=1024, help="Side of the images, in pixels.")] = 32,
    fit: Annotated[
        Literal["stretch", "crop", "shorter"],
        typer.Option(help="Stretch to the square, crop the central square, or scale the shorter side."),
    ] = "stretch",
    captions: Annotated[int | None, typer.Option(min=1, help="Take the first ones of each image alone; the paper takes 5.")] = None,
    tokens: TokensOption = None,
    minimum_count: Annotated[int, typer.Option(min=1, help="Leave rarer words out of the vocabulary.")] = 1,
    words: Annotated[int | None, typer.Option(min=2, help="Most words in the vocabulary. [default: all]")] = None,
    validation: Annotated[float, typer.Option(min=0.0, max=0.9, help="Share of the training images that validates, if none do.")] = 0.0,
    test: Annotated[float, typer.Option(min=0.0, max=0.9, help="Share of the training images to test on, if there are none.")] = 0.0,
    image_column: ImageColumnOption = None,
    caption_column: CaptionColumnOption = None,
    split_column: SplitColumnOption = None,
    images: ImagesFolderOption = None,
    title: Annotated[str | None, typer.Option(help="What the data is, for the cards of models that are trained on it.")] = None,
    licence: Annotated[
        str | None, typer.Option("--licence", "--license", help="Of the data, for those cards: cc-by-4.0, for example.")
    ] = None,
    workers: WorkersOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
) -> None:
    """Make captioned images of any kind into one dataset to train on."""
    _needs_datasets()
    from cap2im.convert.pickles import read_pickle
    from cap2im.data.prepare import Options
    from cap2im.data.prepare import prepare as prepare_dataset
    from cap2im.data.sources import read_source
    from cap2im.data.validate import missing_validation

    options = Options(side, fit, captions, tokens, minimum_count, words, title, licence)
    source = read_source(
        kind,
        path,
        read_pickle=read_pickle,
        side=side,
        validation=validation,
        test=test,
        image_column=image_column,
        caption_column=tuple(caption_column or ()),
        split_column=split_column,
        images=images,
    )
    manifest = prepare_dataset(source, out, kind=kind, path=path, options=options, workers=workers, resume=resume)
    counts = ", ".join(f"{split}: {n['images']:,} images with {n['captions']:,} captions" for split, n in manifest["splits"].items())
    print(f"{counts}; {manifest['vocabulary']['words']:,} words\nwritten to {out}")
    if (hint := missing_validation(manifest["splits"], validation)) is not None:
        print(hint, file=sys.stderr)


@app.command(epilog=_examples("cap2im check photos/", "cap2im check coco/ --kind coco --all", "cap2im check data/photos"))
def check(
    path: Annotated[str, typer.Argument(help="Captioned images of any kind, or a prepared dataset.", **PLACE)],
    kind: Annotated[Kind | None, typer.Option(help="What PATH is. [default: by what lies there]")] = None,
    tell_all: Annotated[bool, typer.Option("--all", help="List every problem in place of ten of each kind.")] = False,
    tokens: TokensOption = None,
    image_column: ImageColumnOption = None,
    caption_column: CaptionColumnOption = None,
    split_column: SplitColumnOption = None,
    images: ImagesFolderOption = None,
    workers: WorkersOption = None,
) -> None:
    """Say what is wrong with captioned images; exit status 1 if something would be lost."""
    _needs_datasets()
    from cap2im.convert.pickles import read_pickle
    from cap2im.data.validate import check as check_path

    report = check_path(
        path,
        kind=kind,
        read_pickle=read_pickle,
        tokens=tokens,
        image_column=image_column,
        caption_column=tuple(caption_column or ()),
        split_column=split_column,
        images=images,
        workers=workers,
    )
    print_check(path, report, None if tell_all else 10)
    if report.loses_data:
        raise typer.Exit(1)


@app.command(
    epilog=_examples(
        "cap2im convert aligndraw.h5 --dictionary dictionary.pkl --out models/aligndraw-coco",
        "cap2im convert attention-vae.h5 --out models/aligndraw-mnist-2016",
        "cap2im convert gan.hdf5 --out models/sharpener",
        "cap2im convert current.ckpt --dictionary dictionary.pkl --out models/port",
        "cap2im convert skip-thoughts/ --out models/skip-thoughts",
        "cap2im convert coco_AttnGAN2.pth --text-encoder text_encoder100.pth --dictionary captions.pickle --out models/attngan-coco",
        "cap2im convert attngan-coco/ --out models/attngan-coco",
    )
)
def convert(
    file: Annotated[Path, typer.Argument(help="Legacy weights: HDF5, PyTorch, or a folder of skip-thoughts' or AttnGAN's.", **EXISTING)],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder for the model.", **PATH)],
    dictionary: Annotated[
        Path | None,
        typer.Option(help="The words of the weights: alignDRAW's dictionary.pkl, AttnGAN's captions.pickle.", **FILE),
    ] = None,
    text_encoder: Annotated[
        Path | None, typer.Option(help="What AttnGAN's generator or image encoder hears: text_encoder….pth.", **FILE)
    ] = None,
    glimpses: Annotated[
        int | None, typer.Option(min=1, max=1024, help="T, which no file tells. As the programs have it: 32, or 64 for DRAW.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the skip-thoughts' word vectors in half precision: 2.3 GB, not 4.6.")] = False,
) -> None:
    """Turn the authors' own weights, and those of a PyTorch port, into a model folder. Nothing in the files is executed."""
    from cap2im.checkpoint import read_config
    from cap2im.convert.recognise import convert as convert_weights

    with console.status(f"reading {escape(str(file))}"):  # the captions.pickle of COCO takes ten seconds
        folder = convert_weights(file, out, dictionary=dictionary, text_encoder=text_encoder, glimpses=glimpses, half=half)
    print(f"{read_config(folder)['description']}: written to {folder}")


@app.command(
    epilog=_examples(
        "cap2im serve",
        "cap2im serve --model aligndraw-mnist --model runs/photos --port 8080",
        "cap2im serve --host 0.0.0.0 --api-key-file key.txt --workers 2 --store pictures/",
        "cap2im serve --device cuda:0 --device cuda:1 --batch 128 --set samples=4 --set timeout_s=20",
    )
)
def serve(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Bundled name, folder, run, or OWNER/NAME on the hub; may be repeated.", **PLACE),
    ] = None,
    sharpen: SharpenOption = None,
    device: Annotated[list[str] | None, typer.Option(help="cpu, cuda:0, mps; may be repeated, and all of them draw.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes, each with all models.")] = 1,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes any that is free.")] = 8000,
    root_path: Annotated[str, typer.Option(help="Path prefix that a reverse proxy removes, such as /draw.")] = "",
    queue: Annotated[int, typer.Option(min=1, help="Pictures that may wait or be drawn in a process; more are refused.")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Pictures that are drawn together, at most.")] = 64,
    store: Annotated[
        str | None, typer.Option(help="Folder or URL (s3://, gs://, abfs://) for pictures, to answer links to them.", **PLACE)
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File with the key that clients need to draw; or the environment's CAP2IM_API_KEY.", **PATH)
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="KEY=VALUE of another limit; may be repeated: captions, samples, characters, body_bytes, wait_ms, timeout_s, "
            "send_timeout_s, body_timeout_s, shutdown_s, store_public, store_link_s, store_timeout_s; "
            "allowed_hosts, cors_origins: lists with commas.",
        ),
    ] = None,
) -> None:
    """Serve models: an API, and a page on which people watch them draw."""
    try:
        from cap2im.serve.app import serve as run_server
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("cap2im"):
            raise
        raise ValueError("serving needs more than the core; in the checkout: pip install -c constraints.txt '.[serve]'") from None
    from cap2im.pipeline import find_device, find_model
    from cap2im.serve.settings import ServeSettings, read_key

    values: dict[str, Any] = {
        "models": tuple(model or [cap2im.DEFAULT_MODEL]),
        "sharpen": sharpen,
        "devices": tuple(device or ["cpu"]),
        "workers": workers,
        "host": host,
        "port": port,
        "root_path": root_path,
        "queue": queue,
        "batch": batch,
        "store": store,
        "api_key": read_key(api_key_file),
    }
    for change in changes or []:
        key, equals, value = change.partition("=")
        if not equals or key in values:
            raise ValueError(f"--set {change}: expected KEY=VALUE of a setting that has no option of its own")
        values[key] = value
    settings = ServeSettings.of(values)
    for each in settings.devices:
        find_device(each)
    for each in (*settings.models, *([] if sharpen is None else [sharpen])):
        find_model(each)
    run_server(settings)


@app.command("list", epilog=_examples("cap2im list"))
def list_models() -> None:
    """Show the bundled models and the recipes."""
    from importlib import resources

    package = resources.files("cap2im")  # read as they lie: the functions that load them import torch
    table = Table("model", "parameters", "what it does")
    for folder in sorted(package.joinpath("pretrained").iterdir(), key=lambda folder: folder.name):
        if (file := folder.joinpath("config.json")).is_file():
            config = json.loads(file.read_text("utf-8"))
            table.add_row(folder.name, f"{config['parameters']:,}" if "parameters" in config else "", config.get("description", ""))
    recipes = Table("recipe", "what it trains")
    for file in sorted(package.joinpath("recipes").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            recipes.add_row(file.name.removesuffix(".toml"), tomllib.loads(file.read_text("utf-8"))["description"])
    stdout = Console(highlight=False)
    stdout.print(table)
    stdout.print(recipes)
