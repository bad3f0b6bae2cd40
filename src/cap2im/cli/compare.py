"""`cap2im compare`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cap2im.cli.options import (
    PATH,
    PLACE,
    BoundSamplesOption,
    CandidatesOption,
    DAMSMOption,
    DataOption,
    DeviceOption,
    ImagesOption,
    InceptionOption,
    MetricOption,
    PrecisionOption,
    ReaderOption,
    RetrievalSamplesOption,
    SamplesOption,
    SeedOption,
    SharpenOption,
    ShortlistModelOption,
    SplitOption,
    examples,
)
from cap2im.cli.train import train
from cap2im.evaluation.registry import METRICS, require_known
from cap2im.evaluation.report import progress_bars
from cap2im.extras import require
from cap2im.files import check_writable_folder, dump_json, write_atomically

if TYPE_CHECKING:
    from cap2im.evaluation.settings import Settings
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
    metric: MetricOption = None,
    split: SplitOption = None,
    images: ImagesOption = 1000,
    bound_samples: BoundSamplesOption = 16,
    samples: SamplesOption = None,
    shortlist_model: ShortlistModelOption = None,
    candidates: CandidatesOption = None,
    retrieval_samples: RetrievalSamplesOption = 1,
    inception: InceptionOption = None,
    damsm: DAMSMOption = None,
    reader: ReaderOption = None,
    sharpen: SharpenOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "fp32",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the tables, the picture and the evaluations.", **PATH)] = Path(
        "comparison"
    ),
) -> None:
    """Measure several models and write one table: Markdown, JSON and a picture. Numbers of different protocols get columns of their own."""
    require_known(metric or ())
    from cap2im.evaluation.comparison import compare as table_of
    from cap2im.evaluation.comparison import evaluate_once
    from cap2im.evaluation.figures import comparison_figure
    from cap2im.evaluation.settings import Settings
    from cap2im.evaluation.store import free_stem
    from cap2im.pipeline import Pipeline
    from cap2im.rendering.images import png_bytes
    from cap2im.sharpening import Sharpening

    names = [*(models or []), *(PRESETS[preset] if preset else ())]
    if not names:
        raise ValueError("no model given; name some, or add --preset mnist")
    check_writable_folder(out)
    settings = Settings(
        metrics=None if metric is None else tuple(metric),
        split=split,
        images=images,
        bound_samples=bound_samples,
        samples=samples,
        shortlist_model=shortlist_model,
        candidates=candidates,
        retrieval_samples=retrieval_samples,
        inception=inception,
        damsm=damsm,
        reader=reader,
        seed=seed,
    )
    sharpening = None if sharpen is None else Sharpening.load(sharpen, device=device)
    found, missing = _models_to_compare(names, runs, train_missing)

    def load(name: str, where: str) -> Pipeline:
        pipeline = Pipeline.load(where, device=device, precision=precision)
        return dataclasses.replace(pipeline if sharpening is None else pipeline.sharpened(sharpening), name=name)

    pipelines = {name: load(name, where) for name, where in found.items()}
    _check_comparison(list(pipelines.values()), missing, data, settings, None if sharpening is None else sharpening.model.config)
    if missing:
        check_writable_folder(runs)
        pipelines |= {name: load(name, str(_train_for_comparison(name, runs, data))) for name in missing}
    ordered = [pipelines[label] for label in map(_label, names)]
    figure = comparison_figure(ordered, seed)  # fails before hours of measuring
    out.mkdir(parents=True, exist_ok=True)
    evaluations = []
    with progress_bars(True) as start_progress:
        for each in ordered:
            file = out / "evaluations" / f"{each.name}.json"
            evaluations.append(evaluate_once(each, file, settings, data=_data_for(each, data), start_progress=start_progress))
    table = table_of(evaluations)
    of = {each.model: {"weights_sha256": each.weights_sha256, "settings": dict(each.settings)} for each in evaluations}
    stem = free_stem(out, "comparison", of)
    write_atomically(out / f"{stem}.png", png_bytes(figure))
    write_atomically(out / f"{stem}.md", table.markdown())
    write_atomically(out / f"{stem}.json", dump_json(table.to_dict() | {"of": of}) + "\n")
    print(table.markdown())
    if stem != "comparison":
        print(f"{out}: comparison.md is of other models or settings and is kept", file=sys.stderr)
    print(f"written to {out}: {stem}.md, {stem}.json, {stem}.png, evaluations/")


def _label(name: str) -> str:
    """Return the name of a model in a table: the last part of its path, also of "." and ".."."""
    return Path(name).resolve().name


def _models_to_compare(names: list[str], runs: Path, train_missing: bool) -> tuple[dict[str, str], list[str]]:
    """Find the models of a comparison.

    Args:
        names: models, as for `cap2im evaluate`, or names of recipes.
        runs: folder of the recipes' runs.
        train_missing: whether recipes without a model are trained.

    Returns:
        the folder of each model by its label, and the recipes without a model.

    Raises:
        ValueError: a model is missing, or two have one name; the message has all problems.
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
                problems.append(f"{name}: a recipe of kind {kind!r} trains a model that does not draw")
            else:
                missing.append(name)
    if problems or (missing and not train_missing):
        untrained = f"not trained yet: {', '.join(missing)}; add --train, or train them into {runs}/RECIPE" if missing else ""
        raise ValueError("; ".join([*problems, untrained] if untrained else problems))
    return found, missing


def _data_for(pipeline: Pipeline, data: str | None) -> str | None:
    """Return the data that a model of a comparison is measured on; models of scikit-learn's digits need none."""
    from cap2im.evaluation.subject import Subject

    return None if Subject.of(pipeline).digits == "digits" else data


def _check_comparison(
    pipelines: list[Pipeline], missing: list[str], data: str | None, settings: Settings, sharpener: SharpenerConfig | None
) -> None:
    """Make all checks of a comparison that come before training and measuring.

    Args:
        pipelines: models that exist.
        missing: recipes that will be trained.
        data: data for training and measuring.
        settings: what to measure, and how.
        sharpener: of the pictures, or None.

    Raises:
        ValueError: something is missing or does not fit.
    """
    from cap2im.config import DigitsData, DrawingRecipe, PicturesData, load_recipe
    from cap2im.data.dataset import PreparedDataset
    from cap2im.data.mnist import load_digits
    from cap2im.evaluation.subject import Subject
    from cap2im.training.data import fit_to_dataset, sentence_encoder

    recipes = {name: recipe for name in missing if isinstance(recipe := load_recipe(name, []), DrawingRecipe)}
    if recipes:
        require("training", "train", "accelerate", "tensorboard")
    subjects = [*map(Subject.of, pipelines), *(Subject.of_recipe(name, recipe) for name, recipe in recipes.items())]
    for name in settings.metrics or ():
        if not any(subject.allows(METRICS[name]) for subject in subjects):
            raise ValueError(f"--metric {name}: cannot be measured of any of these models")
    for subject in subjects:
        allowed, own = subject.allowed(settings), None if subject.digits == "digits" else data
        subject.check(own, allowed)
        subject.check_scorers(allowed)
        if subject.digits is not None:
            load_digits(subject.digits, settings.digits_split, None if own is None else Path(own))
        if sharpener is not None and (sharpener.side, sharpener.colours) != (subject.config.side, subject.config.colours):
            raise ValueError(f"the sharpener does not fit {subject.name}: it sharpens {sharpener.side} x {sharpener.side} pixels")
    for recipe in recipes.values():
        if not isinstance(recipe.data, DigitsData):
            fit_to_dataset(recipe, PreparedDataset.open(str(data)), resizes=isinstance(recipe.data, PicturesData))
            sentence_encoder(recipe)


def _train_for_comparison(name: str, runs: Path, data: str | None) -> Path:
    """Train a recipe, after the DAMSM of an AttnGAN, and return the folder of the model."""
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
        damsm = Path(recipe.train.damsm).name
        changes = [f"train.damsm={runs / damsm}"]
        if not existing_folder(runs / damsm / "model").is_dir():
            trained(damsm)
    return trained(name, *changes)
