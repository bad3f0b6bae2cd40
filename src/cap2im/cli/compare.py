"""`cap2im compare`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cap2im.cli.options import (
    PATH,
    PLACE,
    BoundSamplesOption,
    CandidatesOption,
    DAMSMOption,
    DataOption,
    DeviceOption,
    FIDOption,
    ImagesOption,
    InceptionOption,
    NeuralOption,
    PrecisionOption,
    SamplesOption,
    SeedOption,
    SharpenOption,
    ShortlistOption,
    SimilarityOption,
    SplitOption,
    examples,
)
from cap2im.cli.train import train
from cap2im.extras import require
from cap2im.files import check_writable_folder, dump_json, write_atomically

if TYPE_CHECKING:
    from cap2im.data.splits import Split
    from cap2im.evaluation.evaluate import Measures
    from cap2im.models.lapgan import SharpenerConfig
    from cap2im.pipeline import Pipeline


commands = typer.Typer()


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


@commands.command(
    epilog=examples(
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
    seed: SeedOption = 0,
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
    from cap2im.evaluation.figures import comparison_figure
    from cap2im.pipeline import Pipeline
    from cap2im.rendering.images import png_bytes
    from cap2im.sharpening import Sharpening

    names = [*(models or []), *(PRESETS[preset] if preset else ())]
    if not names:
        raise ValueError("no model given; name some, or add --preset mnist")
    if preset is not None and (shortlist is not None or similarity or fid or split == "all"):
        raise ValueError(f"--preset {preset}: captioned digits have no --shortlist, no --similarity, no --fid and no --split all")
    check_writable_folder(out)
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
    figure = comparison_figure(ordered, seed)  # fails before hours of measuring
    out.mkdir(parents=True, exist_ok=True)
    results = [evaluated(each, out / "evaluations" / f"{each.name}.json", data=_data_for(each, data), **asked) for each in ordered]
    table = table_of(results)
    of = {result["model"]: {"weights_sha256": result["weights_sha256"], "asked": result["asked"]} for result in results}
    stem = free_stem(out, "comparison", of)
    write_atomically(out / f"{stem}.png", png_bytes(figure))
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
    from cap2im.config import load_recipe, recipe_names
    from cap2im.files import existing_folder
    from cap2im.loading import find_model
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
    from cap2im.data.dataset import PreparedDataset
    from cap2im.data.mnist import load_digits
    from cap2im.evaluation.evaluate import Subject
    from cap2im.training.data import fitted, sentence_encoder

    recipes = {name: recipe for name in missing if isinstance(recipe := load_recipe(name, []), DrawingRecipe)}
    if recipes:
        require("training", "train", "accelerate", "tensorboard")
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
    from cap2im.checkpoint import checkpoints
    from cap2im.config import AttnGANRecipe, load_recipe
    from cap2im.files import existing_folder

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
