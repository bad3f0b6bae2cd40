"""`cap2im evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import cap2im
from cap2im.cli.options import (
    PATH,
    BoundSamplesOption,
    CandidatesOption,
    DAMSMOption,
    DataOption,
    DeviceOption,
    FIDOption,
    ImagesOption,
    InceptionOption,
    ModelArgument,
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
from cap2im.evaluation.report import print_evaluation
from cap2im.files import check_writable_file

commands = typer.Typer()


@commands.command(
    epilog=examples(
        "cap2im evaluate aligndraw-mnist --data mnist/",
        "cap2im evaluate runs/aligndraw-mnist --data mnist/ --samples 2 --out quick.json",
        "cap2im evaluate runs/mine --data prepared/ --split all --similarity",
        "cap2im evaluate runs/mine --data prepared/ --shortlist runs/vgg-cifar --images 200",
        "cap2im evaluate runs/attngan --data prepared/ --split validation --fid --damsm runs/damsm --images 30000",
        "accelerate launch --multi_gpu --num_processes 2 -m cap2im evaluate runs/mine --data prepared/",
    )
)
def evaluate(
    model: ModelArgument = cap2im.DEFAULT_MODEL,
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
    seed: SeedOption = 0,
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
    from cap2im.metrics.distributed import ProcessGroup
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
    processes = ProcessGroup.from_environment()
    result = measure(pipeline, data=data, processes=processes, **asked)
    if processes.is_main_process:
        print_evaluation(result, sharpen)
        others = keep_evaluation(target, {**result, "asked": protocol})
        kept = f", beside {others} of other weights or protocols" if others else ""
        print(f"written to {target}{kept}")
