"""`cap2im compare`: measure several models and write one table."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cap2im.cli.comparison import check_comparison, data_for, find_models, model_label, train_recipe
from cap2im.cli.options import (
    MODEL,
    PATH,
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
    SceneReaderOption,
    SeedOption,
    SharpenOption,
    ShortlistModelOption,
    SplitOption,
    examples,
    settings_of,
)
from cap2im.evaluation.registry import require_known
from cap2im.evaluation.report import progress_bars
from cap2im.files import check_writable_folder, dump_json, write_atomically

if TYPE_CHECKING:
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
    ),
    "flickr8k": (
        "aligndraw-flickr8k",
        "noaligndraw-flickr8k",
        "skipthoughtdraw-flickr8k",
        "draw-flickr8k",
        "conv-vae-flickr8k",
        "fc-vae-flickr8k",
        "lapgan-flickr8k",
    ),
}


@commands.command(
    epilog=examples(
        "cap2im compare aligndraw-mnist runs/mine --data mnist/",
        "cap2im compare --preset mnist --data mnist/ --train",
        "cap2im compare runs/align runs/noalign --data data/photos --out comparison",
    )
)
def compare(
    context: typer.Context,
    models: Annotated[list[str] | None, typer.Argument(help="Models, as for cap2im evaluate, or names of recipes.", **MODEL)] = None,
    preset: Annotated[
        Literal["mnist", "flickr8k"] | None,
        typer.Option(help="mnist: every model of MNIST with captions. flickr8k: the models of Flickr8k at 32 x 32."),
    ] = None,
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
    scene_reader: SceneReaderOption = None,
    sharpen: SharpenOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "fp32",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the tables, the picture and the evaluations.", **PATH)] = Path(
        "comparison"
    ),
) -> None:
    """Measure several models and write one table: Markdown, JSON and a picture. Each protocol has columns of its own."""
    require_known(metric or ())
    from cap2im.evaluation.comparison import compare as table_of
    from cap2im.evaluation.comparison import evaluate_once
    from cap2im.evaluation.figures import comparison_figure
    from cap2im.evaluation.store import free_stem
    from cap2im.pipeline import Pipeline
    from cap2im.rendering.images import png_bytes
    from cap2im.sharpening import Sharpening

    names = [*(models or []), *(PRESETS[preset] if preset else ())]
    if not names:
        raise ValueError("no model given; name some, or add --preset mnist")
    check_writable_folder(out)
    settings = settings_of(context)
    sharpening = None if sharpen is None else Sharpening.load(sharpen, device=device)
    folders, missing = find_models(names, runs, train_missing)

    def load(name: str, folder: str) -> Pipeline:
        pipeline = Pipeline.load(folder, device=device, precision=precision)
        return dataclasses.replace(pipeline if sharpening is None else pipeline.sharpened(sharpening), name=name)

    pipelines = {name: load(name, folder) for name, folder in folders.items()}
    check_comparison(list(pipelines.values()), missing, data, settings, None if sharpening is None else sharpening.model.config)
    if missing:
        check_writable_folder(runs)
        pipelines |= {name: load(name, str(train_recipe(name, runs, data))) for name in missing}
    ordered = [pipelines[model_label(name)] for name in names]
    figure = comparison_figure(ordered, seed)  # fails before hours of measuring
    out.mkdir(parents=True, exist_ok=True)
    evaluations = []
    with progress_bars(True) as start_progress:
        for each in ordered:
            file = out / "evaluations" / f"{each.name}.json"
            evaluations.append(evaluate_once(each, file, settings, data=data_for(each, data), start_progress=start_progress))
    table = table_of(evaluations)
    identities = {each.model: {"weights_sha256": each.weights_sha256, "settings": dict(each.settings)} for each in evaluations}
    stem = free_stem(out, "comparison", identities)
    write_atomically(out / f"{stem}.png", png_bytes(figure))
    write_atomically(out / f"{stem}.md", table.markdown())
    write_atomically(out / f"{stem}.json", dump_json(table.to_dict() | {"of": identities}) + "\n")
    print(table.markdown())
    if stem != "comparison":
        print(f"{out}: comparison.md is of other models or settings and is kept", file=sys.stderr)
    print(f"written to {out}: {stem}.md, {stem}.json, {stem}.png, evaluations/")
