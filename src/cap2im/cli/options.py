"""Option types and checks that several commands share."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cap2im.evaluation.registry import METRICS

if TYPE_CHECKING:
    from cap2im.evaluation.settings import Settings

# ---- values that name paths: `~` is expanded, which the shell leaves in quotes and after `=`


def parse_place(text: Any) -> str:
    """Return a path, name or URL with `~` expanded."""
    return os.path.expanduser(str(text))


def parse_path(text: Any) -> Path:
    """Return a path with `~` expanded."""
    return Path(parse_place(text))


def parse_file(text: Any) -> Path:
    """Return the path of an existing file.

    Raises:
        BadParameter: the file does not exist.
    """
    if (path := parse_path(text)).is_file():
        return path
    raise typer.BadParameter(f"{path}: {'is a folder, and a file is needed' if path.is_dir() else 'no such file'}")


def parse_folder(text: Any) -> Path:
    """Return the path of an existing folder.

    Raises:
        BadParameter: the folder does not exist.
    """
    if (path := parse_path(text)).is_dir():
        return path
    raise typer.BadParameter(f"{path}: {'is a file, and a folder is needed' if path.exists() else 'no such folder'}")


def parse_existing(text: Any) -> Path:
    """Return a path that exists.

    Raises:
        BadParameter: the path does not exist.
    """
    if (path := parse_path(text)).exists():
        return path
    raise typer.BadParameter(f"{path}: no such file or folder")


# keyword arguments of typer.Option and typer.Argument
PLACE: dict[str, Any] = {"parser": parse_place, "metavar": "TEXT"}
MODEL: dict[str, Any] = {"parser": parse_place, "metavar": "MODEL"}
PATH: dict[str, Any] = {"parser": parse_path, "metavar": "PATH"}
FILE: dict[str, Any] = {"parser": parse_file, "metavar": "FILE"}
FOLDER: dict[str, Any] = {"parser": parse_folder, "metavar": "FOLDER"}
EXISTING: dict[str, Any] = {"parser": parse_existing, "metavar": "PATH"}

# ---- models and how they run

ModelArgument = Annotated[
    str, typer.Argument(help="Bundled name, folder, run, or OWNER/NAME (or OWNER/NAME@REVISION) on the Hugging Face hub.", **MODEL)
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="Bundled name, folder, run, or OWNER/NAME (or OWNER/NAME@REVISION) on the Hugging Face hub.", **MODEL
    ),
]
SharpenOption = Annotated[
    str | None, typer.Option(help="Sharpener to apply to the finished pictures: a folder, run, or OWNER/NAME on the hub.", **PLACE)
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")]
PrecisionOption = Annotated[
    Literal["fp32", "bf16"],
    typer.Option(help="Numeric precision; bf16 is faster on hardware that supports it, and changes pictures slightly."),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of every random number.")]
PairsSeedOption = Annotated[int, typer.Option(min=0, help="Seed of the pictures and of the choice of images.")]

# ---- recipes and data

ChangesOption = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE: change a value of the recipe; may be repeated.")]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Prepared dataset (or its URL), cut-outs, sentences, or folder of the MNIST files (downloaded if not given).",
        **PLACE,
    ),
]
TokensOption = Annotated[
    Literal["released", "attngan"] | None,
    typer.Option(help="Tokenizer of alignDRAW or of AttnGAN. [default: that of the source's vocabulary, else released]"),
]
WorkersOption = Annotated[int | None, typer.Option(min=1, max=1024, help="Processes that read images. [default: one per processor]")]
ImageColumnOption = Annotated[str | None, typer.Option(help="Column of a table with the images or their file names. [default: guessed]")]
CaptionColumnOption = Annotated[
    list[str] | None, typer.Option(help="Column of a table with captions; may be repeated to use several. [default: guessed]")
]
SplitColumnOption = Annotated[str | None, typer.Option(help="Column of a table with train, validation or test. [default: split]")]
ImagesFolderOption = Annotated[
    str | None,
    typer.Option("--images", help="Folder that file names of a table are relative to. [default: the table's]", **PLACE),
]

# ---- measurements

SplitOption = Annotated[
    Literal["train", "validation", "test", "all"] | None,
    typer.Option(
        help="Images, digits or held-out scenes to measure on; all estimates the bound on each split of the dataset, the rest on the last. "
        "Default: test; validation if the dataset has no test images."
    ),
]
ImagesOption = Annotated[
    int, typer.Option(min=2, max=1_000_000, help="Captions with their images, canvases of digits, or captions of scenes.")
]
BoundSamplesOption = Annotated[int, typer.Option(min=1, max=10_000, help="For bound: L, posterior samples an image.")]
SamplesOption = Annotated[
    int | None,
    typer.Option(min=1, max=10_000, help="Drawings of a caption. Default: 10 of digits, 1 of scenes, 50 for ssim, 20 for scene-accuracy."),
]
MetricOption = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        help=f"Metric to measure; may be repeated: {', '.join(METRICS)}. "
        f"Default: {' and '.join(name for name, metric in METRICS.items() if metric.default)}, where the model allows them.",
        metavar="NAME",
    ),
]
ShortlistModelOption = Annotated[
    str | None, typer.Option(help="For retrieval: a VGG-like network (run or folder), or a pickle of shortlists.", **PLACE)
]
CandidatesOption = Annotated[
    int | None, typer.Option(min=2, max=100_000, help="For retrieval: images of a shortlist that the network makes. Default: 100.")
]
RetrievalSamplesOption = Annotated[int, typer.Option(min=1, max=10_000, help="For retrieval: L of the bounds that it compares.")]
InceptionOption = Annotated[
    str | None,
    typer.Option(
        help="For fid, inception-score and neural-distance: file of pytorch-fid's weights. Default: the cache, or downloaded.", **PLACE
    ),
]
DAMSMOption = Annotated[str | None, typer.Option("--damsm", help="For r-precision and neural-distance: a DAMSM, a run or folder.", **PLACE)]
ReaderOption = Annotated[
    str | None,
    typer.Option(help="For caption-accuracy or compositional-accuracy: its reader, a run or folder. Default: the bundled one.", **PLACE),
]
SceneReaderOption = Annotated[str | None, typer.Option(help="For scene-accuracy: a scene reader, a run or folder.", **PLACE)]


def settings_of(context: typer.Context) -> Settings:
    """Return the settings that the options of a command give; options and fields have the same names, but for --metric.

    Raises:
        ValueError: options do not fit together.
    """
    from cap2im.evaluation.settings import Settings

    given = {field.name: context.params[field.name] for field in dataclasses.fields(Settings) if field.name != "metrics"}
    return Settings(metrics=tuple(context.params["metric"] or ()) or None, **given)


def examples(*lines: str) -> str:
    """Return the examples below the help of a command, one a line."""
    return "Examples:\n\n" + "\n\n".join(f"  {line}" for line in lines)
