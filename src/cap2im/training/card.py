"""The model card that training writes beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from cap2im._version import __version__
from cap2im.files import shortened
from cap2im.hub import licence_lines
from cap2im.registry import MODELS
from cap2im.training.accelerator import machine

MATCHED_CAPTIONS = {
    "validation": "validation images",
    "seen": "validation digits, captions of the training",
    "held_out": "validation digits, held-out captions",
}

DRAW_WITH_IT = "Draw with it: `cap2im draw CAPTION --model FOLDER`."

CARD = """---
library_name: cap2im
{task}{licence}---

# {name}

{description}.

| | |
| --- | --- |
{table}

{use}
"""


def model_card(
    name: str,
    recipe: Any,
    figures: Mapping[str, Any],
    *,
    task: str | None = None,
    use: str | None = None,
    measured: Mapping[str, str] | None = None,
    origin: Mapping[str, str] | None = None,
    unit: str = "",
    parameters: str = "",
) -> str:
    """Return the text of a model card. Its first three arguments are those of `registry.Spec.write_card`.

    Args:
        name: of the model.
        recipe: of the run.
        figures: validation scores, measurements, `config.json`'s "data", and what the training took.
        task: pipeline tag of the Hugging Face hub; None is text-to-image for a model that draws, and no tag for others.
        use: how to use the model; None takes the command that draws, if the model draws.
        measured: rows of measurements; None takes the validation scores.
        origin: rows of what the model was made from, besides command and seed.
        unit: of an update, e.g. " of 20 pairs".
        parameters: which parameters are counted, e.g. ", without decoders".
    """
    data, draws = figures.get("data", {}), MODELS[recipe.kind].draws
    task = ("text-to-image" if draws else "") if task is None else task
    use = (DRAW_WITH_IT if draws else "") if use is None else use
    if measured is None:
        measured = {key.replace("/", " "): f"{value:.4g}" for key, value in figures.items() if key.startswith("validation/")}
    rows = {
        "command": f"`{figures['command']}`",
        **(origin or {}),
        "seed": recipe.train.seed,
        "updates": f"{figures['steps']:,}{unit}",
        "time": f"{figures['seconds'] / 3600:.2f} h on {machine()}",
        "parameters": f"{figures['parameters']:,}{parameters}",
        **measured,
        **licence_row(data),
        "written by": f"cap2im {__version__}, torch {torch.__version__}",
    }
    table = "\n".join(f"| {what} | {value} |" for what, value in rows.items())
    tag = f"pipeline_tag: {task}\n" if task else ""
    title = description(recipe.description, data)
    return CARD.format(task=tag, licence=licence_line(data), name=one_line(name), description=title, table=table, use=use)


def one_line(text: str) -> str:
    """Return a text as one line that fits a cell of a Markdown table."""
    return shortened(" ".join(text.split()), 200).replace("|", "/")


def _dataset(data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the description of the prepared dataset that a model was trained on; None for captioned digits and texts."""
    dataset = data.get("dataset", data)
    return dataset if isinstance(dataset.get("source"), Mapping) else None


def description(recipe: str, data: Mapping[str, Any]) -> str:
    """Return a recipe's description with the dataset that a model was trained on.

    Args:
        recipe: the recipe's description.
        data: "data" of the model's `config.json`.
    """
    dataset = _dataset(data)
    if dataset is None:
        return recipe
    title = dataset.get("title") or dataset["source"].get("path") or "captioned images"
    images = f" ({dataset['images']:,} images)" if dataset.get("images") else ""
    return f"{recipe}, trained on {one_line(str(title))}{images}"


def licence_line(data: Mapping[str, Any]) -> str:
    """Return the licence for the head of a card: that of the data if it is known; MIT for captioned digits."""
    dataset = _dataset(data)
    if dataset is None:
        return "license: mit\n" if not data or data.get("source") in ("mnist", "digits") else ""
    return licence_lines(one_line(dataset.get("licence") or ""))


def licence_row(data: Mapping[str, Any]) -> dict[str, str]:
    """Return a row with the licence of a prepared dataset, or that it is unknown."""
    dataset = _dataset(data)
    if dataset is None:
        return {}
    return {"licence of the data": one_line(dataset.get("licence") or "not known: cap2im prepare --licence sets it")}


def vocabulary_row(recipe: Any, data: Mapping[str, Any]) -> dict[str, str]:
    """Return a row with the size of the vocabulary of a model that reads words."""
    if not recipe.model.reads_words:
        return {}
    count = data.get("minimum_count", 1)
    rare = f"; words occur at least {count} times in the training captions" if count > 1 else ""
    return {"vocabulary": f"{recipe.model.vocabulary_size:,} entries{rare}"}


def _interval(measured: Mapping[str, Any]) -> str:
    """Return a rate with its interval."""
    return f"{measured['rate']:.2%} (95 % interval {measured['low']:.2%} to {measured['high']:.2%}) of {measured['n']:,}"


def variational_card(name: str, recipe: Any, figures: Mapping[str, Any]) -> str:
    """Return the card of a model with a variational bound."""
    bound = f"{figures['validation/bound']:.2f} nats an image (KL {figures['validation/kl']:.2f})"
    return model_card(
        name,
        recipe,
        figures,
        origin={"started from": f"weights of SHA-256 {figures['started_from']}"} if "started_from" in figures else None,
        unit=f" of {recipe.train.batch_size} captions",
        measured=vocabulary_row(recipe, figures["data"])
        | {"validation bound": f"{bound}, one posterior sample; pixels: {figures['observation']}"},
        use=f"{DRAW_WITH_IT} Measure it: `cap2im evaluate FOLDER`.",
    )


def lapgan_card(name: str, recipe: Any, figures: Mapping[str, Any]) -> str:
    """Return the card of a LAPGAN or sharpener."""
    draws = recipe.kind == "lapgan"
    taken = ", ".join(
        f"{level} {figures[f'validation/{level}_real']:.0%}, {figures[f'validation/{level}_drawn']:.0%}"
        for level in (("coarse", "fine") if draws else ("fine",))
    )
    errors = f"{figures['validation/blurred_error']:.5f}, {figures['validation/sharpened_error']:.5f}"
    return model_card(
        name,
        recipe,
        figures,
        task="text-to-image" if draws else "image-to-image",
        parameters=", without discriminators",
        measured={
            "validation images, drawn images that the discriminators take for real": taken,
            "squared error of a pixel of blurred images, sharpened images": errors,
        },
        use=DRAW_WITH_IT if draws else "Use it: `cap2im draw CAPTION --sharpen FOLDER`.",
    )


def damsm_card(name: str, recipe: Any, figures: Mapping[str, Any]) -> str:
    """Return the card of a matching model."""
    measured = figures["r_precision"]
    precisions = {
        f"R-precision of {what}, 1 true caption of {measured['others'] + 1}": _interval(measured[group])
        for group, what in MATCHED_CAPTIONS.items()
        if group in measured
    }
    return model_card(
        name,
        recipe,
        figures,
        origin={"Inception": f"weights of SHA-256 {figures['inception']}"} if "inception" in figures else None,
        unit=f" of {recipe.train.batch_size} pairs",
        measured={"validation loss": f"{figures['validation/loss']:.3f}", **precisions},
        use="Train an AttnGAN with it: `cap2im train attngan-... --set train.damsm=FOLDER`.",
    )


def attngan_card(name: str, recipe: Any, figures: Mapping[str, Any]) -> str:
    """Return the card of an AttnGAN or AttnDCGAN."""
    apart = {key.rpartition("_")[2]: share for key, share in figures.items() if key.startswith("validation/told_apart_")}
    matched = "R-precision of drawn images, by the matching model of the training, 1 true caption of at most 100"
    return model_card(
        name,
        recipe,
        figures,
        unit=f" of {recipe.train.batch_size} captions",
        parameters=" with the text encoder, without discriminators",
        measured={
            "matching model": f"{figures['data']['damsm']['name']}, weights of SHA-256 {figures['data']['damsm']['sha256']}",
            "validation images that the discriminators tell apart from drawn ones (chance is 50%)": ", ".join(
                f"{side} px {share:.0%}" for side, share in apart.items()
            ),
            matched: f"{figures['validation/matched']:.1%}",
        },
    )


def skipthoughts_card(name: str, recipe: Any, figures: Mapping[str, Any]) -> str:
    """Return the card of skip-thoughts."""
    perplexities = {key.rpartition("_")[2]: value for key, value in figures.items() if key.startswith("validation/perplexity_")}
    return model_card(
        name,
        recipe,
        figures,
        task="feature-extraction",
        origin={"sentences": f"{figures['data']['sentences']:,} (SHA-256 of their words {figures['data']['sha256']})"},
        unit=f" of {recipe.train.batch_size} triples",
        parameters=", without decoders",
        measured={
            "validation perplexity of the neighbours' words": ", ".join(f"{key}-skip {value:.2f}" for key, value in perplexities.items()),
        },
        use="From Python: `cap2im.sentence_encoders.load_sentence_encoder(FOLDER).encode([...])`.",
    )


def classifier_card(name: str, recipe: Any, figures: Mapping[str, Any]) -> str:
    """Return the card of a classifier."""
    return model_card(
        name,
        recipe,
        figures,
        task="image-classification",
        unit=f" of {recipe.train.batch_size} images",
        measured={f"{split} images right": _interval(accuracy) for split, accuracy in figures["accuracy"].items()},
        use="Make shortlists of its features: `cap2im evaluate MODEL --data DATA --metric retrieval --shortlist-model FOLDER`.",
    )


def digit_reader_card(name: str, recipe: Any, figures: Mapping[str, Any]) -> str:
    """Return the card of a digit reader."""
    return model_card(
        name,
        recipe,
        figures,
        measured={
            "real canvases of validation digits read exactly": _interval(figures["joint"]),
            "digest": f"`{figures['digest']}`",
        },
        use="It reads the digits of drawings for caption accuracy (`cap2im.metrics.caption_accuracy`).",
    )


def composition_reader_card(name: str, recipe: Any, figures: Mapping[str, Any]) -> str:
    """Return the card of a composition reader."""
    return model_card(
        name,
        recipe,
        figures,
        task="image-classification",
        unit=f" of {recipe.train.batch_size} pictures",
        measured={
            "cut-outs": f"{figures['data']['images']:,} of {len(recipe.model.things)} things, SHA-256 {figures['data']['sha256']}",
            **{f"real scenes in style {style} read exactly": _interval(joint) for style, joint in figures["joint"].items()},
            "digest": f"`{figures['digest']}`",
        },
        use="It reads drawings of captioned scenes for compositional accuracy (`cap2im.metrics.compositional_accuracy`).",
    )


def scene_reader_card(name: str, recipe: Any, figures: Mapping[str, Any]) -> str:
    """Return the card of a scene reader, with the scores of each word."""
    splits = figures["words"]
    means = {
        f"{split} images": f"mean average precision {_mean(words, 'average_precision'):.3f}, "
        f"mean balanced accuracy {_mean(words, 'balanced_accuracy'):.1%}"
        for split, words in splits.items()
    }
    columns = [f"{split} {score}" for split in splits for score in ("share", "average precision", "balanced accuracy")]
    rows = [f"| word and its other forms | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
    for word, *forms in recipe.model.words:
        scores = [splits[split][word] for split in splits]
        cells = [f"{each['share']:.1%} | {each['average_precision']:.3f} | {each['balanced_accuracy']:.1%}" for each in scores]
        rows.append(f"| {', '.join((word, *forms))} | {' | '.join(cells)} |")
    use = "It reads drawings for scene accuracy: `cap2im evaluate MODEL --data DATA --metric scene-accuracy --scene-reader FOLDER`."
    about = (
        "Share: of the images with a caption that holds the word. Average precision: of the images in the order of the reader's log odds; "
        "chance is the share. Balanced accuracy: mean of the shares of images with and without the word that the reader classifies "
        "correctly, at the log odds of the word among the training images; chance is 50 %."
    )
    table = "\n".join(rows)
    return model_card(
        name,
        recipe,
        figures,
        task="image-classification",
        unit=f" of {recipe.train.batch_size} images",
        measured=means,
        use=f"{use}\n\n{table}\n\n{about}",
    )


def _mean(words: Mapping[str, Mapping[str, float]], score: str) -> float:
    """Return the mean of a score over words."""
    return sum(each[score] for each in words.values()) / len(words)
