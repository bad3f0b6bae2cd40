"""A model as a repository of the Hugging Face hub: its files, a card with metrics, and a picture of samples."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import nn

from cap2im.checkpoint import CONFIG, SENTENCE_ENCODER, WEIGHTS
from cap2im.encoder_files import encoder_files
from cap2im.evaluation.evaluation import Evaluation
from cap2im.evaluation.protocol import in_words, source_name
from cap2im.evaluation.store import kept_evaluations
from cap2im.files import read_text
from cap2im.loading import LoadedModel, load_model
from cap2im.models.interface import DrawingModel
from cap2im.pipeline import Pipeline
from cap2im.rendering.images import enlarge, png_bytes, tile, tile_scale
from cap2im.training.card import one_line

CARD, SAMPLES = "README.md", "samples.png"
SAMPLE_CAPTIONS, SAMPLE_SEEDS = 4, 4  # rows and columns of the picture


@dataclass(frozen=True)
class Publication:
    """What a repository of a model holds.

    Attributes:
        files: path in the repository -> file or content.
        card: text of the model card, which is one of the files.
    """

    files: Mapping[str, Path | bytes]
    card: str

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {name: len(each) if isinstance(each, bytes) else each.stat().st_size for name, each in self.files.items()}


def publication(name: str, repository: str, evaluations: Sequence[Path] = ()) -> Publication:
    """Return what the repository of a model will hold: `config.json`, safetensors, the card, and samples of a model that draws.

    The model is loaded first, so that damaged files are not published. Training state and other files of its folder stay here.

    Args:
        name: of a finished model, as `load_model` takes it.
        repository: OWNER/NAME, for the card.
        evaluations: files of `cap2im evaluate`, for the metrics of the card.

    Raises:
        ValueError: the model cannot be loaded, is a checkpoint without a card, or an evaluation is of other weights.
    """
    model = load_model(name, nn.Module)
    if not (model.folder / CARD).is_file():
        raise ValueError(f"{model.folder}: has no model card ({CARD}); push a finished model, not a checkpoint")
    card = ModelCard(re.sub(r"\bFOLDER\b", repository, read_text(model.folder / CARD)), ignore_metadata_errors=True)
    assert isinstance(card.data, ModelCardData)
    task = card.data.pipeline_tag or "other"
    card.data.model_name = model.name
    card.data.eval_results = [result for file in evaluations for result in _results(_evaluation(file, model), task)] or None
    files: dict[str, Path | bytes] = {each: model.folder / each for each in (CONFIG, WEIGHTS)}
    own_encoder = model.folder / SENTENCE_ENCODER
    if own_encoder.is_dir():
        files |= {f"{SENTENCE_ENCODER}/{file.relative_to(own_encoder).as_posix()}": file for file in encoder_files(own_encoder)}
    if isinstance(model.network, DrawingModel):
        files |= _add_samples(card, Pipeline.load(name))
    return Publication({CARD: str(card).encode(), **files}, str(card))


def _add_samples(card: ModelCard, pipeline: Pipeline) -> dict[str, bytes]:
    """Draw a picture of samples, and show it in a card. Nothing is drawn if the model lists no examples."""
    captions = pipeline.examples[:SAMPLE_CAPTIONS]
    if not captions:
        return {}
    drawings = pipeline.draw(captions, samples=SAMPLE_SEEDS, seed=0)
    picture = tile([enlarge(drawing.image, tile_scale(drawing.image)) for drawing in drawings])
    listed = "\n".join(f"{number}. {one_line(caption)}" for number, caption in enumerate(captions, 1))
    about = f"{SAMPLE_SEEDS} drawings of each caption, from seeds 0 to {SAMPLE_SEEDS - 1}, row by row:"
    card.text = f"{card.text.rstrip()}\n\n## Samples\n\n![Samples]({SAMPLES})\n\n{about}\n\n{listed}\n"
    return {SAMPLES: png_bytes(picture)}


def _evaluation(file: Path, model: LoadedModel[nn.Module]) -> Evaluation:
    """Return the newest evaluation of a model in a file."""
    for evaluation in kept_evaluations(file):
        if evaluation.weights_sha256 == model.sha256:
            return evaluation
    raise ValueError(f"{file}: holds no evaluation of {model.name} (weights of SHA-256 {model.sha256[:12]}...)")


def _results(evaluation: Evaluation, task: str) -> list[EvalResult]:
    """Return the measurements as entries of a card's `model-index`, each with its protocol."""
    results = []
    for measurement in evaluation.measurements:
        data = measurement.protocol.get("data", "")
        dataset = source_name(data) if isinstance(data, Mapping) else f"captioned digits ({data})" if data else "captioned images"
        interval = {} if measurement.interval is None else {"interval_95": list(measurement.interval)}
        results.append(
            EvalResult(
                task_type=task,
                dataset_type=one_line(dataset).lower().replace(" ", "-"),
                dataset_name=one_line(dataset),
                metric_type=measurement.name.lower().replace(" ", "-"),
                metric_name=measurement.title.removesuffix(", %"),
                metric_value=measurement.value,
                metric_args={"n": measurement.n, **interval, "protocol": in_words(measurement.protocol)},
            )
        )
    return results
