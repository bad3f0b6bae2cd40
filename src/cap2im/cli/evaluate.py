"""`cap2im evaluate`: measure a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import cap2im
from cap2im.cli.options import (
    PATH,
    BoundSamplesOption,
    CandidatesOption,
    DAMSMOption,
    DataOption,
    DeviceOption,
    ImagesOption,
    InceptionOption,
    MetricOption,
    ModelArgument,
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
from cap2im.evaluation.registry import METRICS, require_known
from cap2im.evaluation.report import print_evaluation, progress_bars
from cap2im.files import check_writable_file

commands = typer.Typer()


@commands.command(
    help=f"Measure a model: {', '.join(metric.about for metric in METRICS.values())}.",
    epilog=examples(
        "cap2im evaluate aligndraw-mnist --data mnist/",
        "cap2im evaluate runs/aligndraw-mnist --data mnist/ --samples 2 --out quick.json",
        "cap2im evaluate runs/mine --data prepared/ --split all --metric bound --metric ssim",
        "cap2im evaluate runs/mine --data prepared/ --metric retrieval --shortlist-model runs/vgg-cifar --images 200",
        "cap2im evaluate runs/mine --data prepared/ --metric scene-accuracy --scene-reader runs/scene-reader-flickr8k",
        "cap2im evaluate runs/attngan --data prepared/ --metric fid --metric r-precision --damsm runs/damsm --images 30000",
        "accelerate launch --multi_gpu --num_processes 2 -m cap2im evaluate runs/mine --data prepared/",
    ),
)
def evaluate(
    context: typer.Context,
    model: ModelArgument = cap2im.DEFAULT_MODEL,
    data: DataOption = None,
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
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="JSON file; keeps results of other settings. Default: evaluation-MODEL.json.", **PATH),
    ] = None,
) -> None:
    """Measure a model; the help lists the metrics."""
    require_known(metric or ())
    if out is not None:
        check_writable_file(out)
    from cap2im.evaluation.evaluate import evaluate as measure
    from cap2im.evaluation.store import check_evaluation_file, keep_evaluation
    from cap2im.evaluation.subject import Subject
    from cap2im.metrics.distributed import ProcessGroup
    from cap2im.pipeline import Pipeline

    settings = settings_of(context)
    pipeline = Pipeline.load(model, device=device, sharpen=sharpen, precision=precision)
    target = out if out is not None else Path(f"evaluation-{pipeline.name}.json")
    check_evaluation_file(target)
    Subject.of(pipeline).check(data, settings)
    processes = ProcessGroup.from_environment()
    with progress_bars(processes.is_main_process) as start_progress:
        evaluation = measure(pipeline, settings, data=data, processes=processes, start_progress=start_progress)
    if processes.is_main_process:
        others = keep_evaluation(target, evaluation)  # first: a closed pipe, as of head, ends the command when it prints
        print_evaluation(evaluation, default_metrics=metric is None)
        kept = f", beside {others} of other weights or settings" if others else ""
        print(f"written to {target}{kept}")
