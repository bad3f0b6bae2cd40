"""The model card that training writes beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from cap2im._version import __version__
from cap2im.config import AttnGANRecipe, ClassifierRecipe, DAMSMRecipe, DigitReaderRecipe, GANRecipe, SkipThoughtsRecipe, VariationalRecipe
from cap2im.files import shortened
from cap2im.hub import licence_lines
from cap2im.training.run import machine

TrainedRecipe = AttnGANRecipe | VariationalRecipe | ClassifierRecipe | DAMSMRecipe | GANRecipe | DigitReaderRecipe | SkipThoughtsRecipe
WHAT_IS_MATCHED = {
    "validation": "validation images",
    "seen": "validation digits, captions that training shows",
    "held_out": "validation digits, captions that it does not",
}

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


def _card(
    name: str,
    recipe: TrainedRecipe,
    figures: Mapping[str, Any],
    *,
    task: str | None,
    use: str,
    measured: Mapping[str, str],
    origin: Mapping[str, str] | None = None,
    of: str = "",
    parameters: str = "",
) -> str:
    """A card.

    Args:
        name: of the model.
        recipe: what was trained.
        figures: what training measured.
        task: the hub's name for what the model does, if it has one.
        use: what to do with it.
        measured: rows of what it is worth.
        origin: rows of what it was made of, if that is more than a command and a seed.
        of: what an update saw, behind the number of updates.
        parameters: which are counted, behind their number.
    """
    data = figures.get("data", {})
    rows = {
        "command": f"`{figures['command']}`",
        **({} if origin is None else origin),
        "seed": recipe.train.seed,
        "updates": f"{figures['steps']:,}{of}",
        "time": f"{figures['seconds'] / 3600:.2f} h on {machine()}",
        "parameters": f"{figures['parameters']:,}{parameters}",
        **measured,
        **licence_row(data),
        "written by": f"cap2im {__version__}, torch {torch.__version__}",
    }
    table = "\n".join(f"| {what} | {told} |" for what, told in rows.items())
    told_task = "" if task is None else f"pipeline_tag: {task}\n"
    title = description(recipe.description, data)
    return CARD.format(task=told_task, licence=licence_line(data), name=one_line(name), description=title, table=table, use=use)


def one_line(text: str) -> str:
    """Return text that can stand in a line and in a cell of a Markdown table."""
    return shortened(" ".join(text.split()), 200).replace("|", "/")


def _dataset(data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what is known of the prepared dataset that a model was trained on; None for captioned digits and texts."""
    found = data.get("dataset", data)
    return found if isinstance(found.get("source"), Mapping) else None


def description(of_recipe: str, data: Mapping[str, Any]) -> str:
    """Return what a model is: its recipe's description, and the dataset that it was trained on.

    Args:
        of_recipe: the recipe's description.
        data: what the model's config says of its data.
    """
    dataset = _dataset(data)
    if dataset is None:
        return of_recipe
    title = dataset.get("title") or dataset["source"].get("path") or "captioned images"
    images = f" ({dataset['images']:,} images)" if dataset.get("images") else ""
    return f"{of_recipe}, trained on {one_line(str(title))}{images}"


def licence_line(data: Mapping[str, Any]) -> str:
    """Return the licence as the first lines of a card have it: that of the data, where it is known; MIT of captioned digits."""
    dataset = _dataset(data)
    if dataset is None:
        return "license: mit\n" if not data or data.get("source") in ("mnist", "digits") else ""
    return licence_lines(one_line(dataset.get("licence") or ""))


def licence_row(data: Mapping[str, Any]) -> dict[str, str]:
    """Return a row that tells the licence of a prepared dataset, or that it is not known."""
    dataset = _dataset(data)
    if dataset is None:
        return {}
    return {"licence of the data": one_line(dataset.get("licence") or "not known: cap2im prepare --licence tells it")}


def _interval(found: Mapping[str, Any]) -> str:
    """A rate with its interval."""
    return f"{found['rate']:.2%} (95 % interval {found['low']:.2%} to {found['high']:.2%}) of {found['n']:,}"


def bound_card(name: str, recipe: VariationalRecipe, figures: dict[str, Any]) -> str:
    """The card of a model trained by its bound: how it was made, and the figures that training measured."""
    bound = f"{figures['validation/bound']:.2f} nats an image (KL {figures['validation/kl']:.2f})"
    return _card(
        name,
        recipe,
        figures,
        task="text-to-image",
        origin={"started from": f"weights of SHA-256 {figures['started_from']}"} if "started_from" in figures else None,
        measured={"validation bound": f"{bound}, one posterior sample; pixels: {figures['observation']}"},
        use="Draw with it: `cap2im draw CAPTION --model FOLDER`. Measure it: `cap2im evaluate FOLDER`.",
    )


def gan_card(name: str, recipe: GANRecipe, figures: dict[str, Any]) -> str:
    """The card of a trained LAPGAN or sharpener."""
    draws = recipe.kind == "lapgan"
    taken = ", ".join(
        f"{level} {figures[f'validation/{level}_real']:.0%}, {figures[f'validation/{level}_drawn']:.0%}"
        for level in (("coarse", "fine") if draws else ("fine",))
    )
    errors = f"{figures['validation/blurred_error']:.5f}, {figures['validation/sharpened_error']:.5f}"
    return _card(
        name,
        recipe,
        figures,
        task="text-to-image" if draws else "image-to-image",
        parameters=", without discriminators",
        measured={
            "validation images, drawn ones taken for real by the discriminators": taken,
            "squared error a pixel of blurred images, sharpened ones": errors,
        },
        use="Draw with it: `cap2im draw CAPTION --model FOLDER`." if draws else "Use it: `cap2im draw CAPTION --sharpen FOLDER`.",
    )


def matching_card(name: str, recipe: DAMSMRecipe, figures: dict[str, Any]) -> str:
    """The card of a trained matching model."""
    found = figures["r_precision"]
    precisions = {
        f"R-precision of {told}, 1 true caption of {found['others'] + 1}": _interval(found[group])
        for group, told in WHAT_IS_MATCHED.items()
        if group in found
    }
    return _card(
        name,
        recipe,
        figures,
        task=None,
        origin={"Inception": f"weights of SHA-256 {figures['inception']}"} if "inception" in figures else None,
        of=f" of {recipe.train.batch_size} pairs",
        measured={"validation loss": f"{figures['validation/loss']:.3f}", **precisions},
        use="Train an AttnGAN with it: `cap2im train attngan-... --set train.damsm=FOLDER`.",
    )


def attngan_card(name: str, recipe: AttnGANRecipe, figures: dict[str, Any]) -> str:
    """The card of a trained AttnGAN or AttnDCGAN."""
    apart = {key.rpartition("_")[2]: share for key, share in figures.items() if key.startswith("validation/told_apart_")}
    matched = "R-precision of the drawn ones, by the matching model that they learned from, 1 true caption of at most 100"
    return _card(
        name,
        recipe,
        figures,
        task="text-to-image",
        of=f" of {recipe.train.batch_size} captions",
        parameters=" with the text encoder, without discriminators",
        measured={
            "matching model": f"{figures['damsm']['name']}, weights of SHA-256 {figures['damsm']['sha256']}",
            "validation images told apart from drawn ones by the discriminators (chance is 50%)": ", ".join(
                f"{side} px {share:.0%}" for side, share in apart.items()
            ),
            matched: f"{figures['validation/matched']:.1%}",
        },
        use="Draw with it: `cap2im draw CAPTION --model FOLDER`.",
    )


def sentences_card(name: str, recipe: SkipThoughtsRecipe, figures: dict[str, Any]) -> str:
    """The card of trained skip-thoughts."""
    told = {key.rpartition("_")[2]: value for key, value in figures.items() if key.startswith("validation/perplexity_")}
    return _card(
        name,
        recipe,
        figures,
        task="feature-extraction",
        origin={"sentences": f"{figures['data']['sentences']:,} (SHA-256 of their words {figures['data']['sha256']})"},
        of=f" of {recipe.train.batch_size} triples",
        parameters=", without decoders",
        measured={
            "validation perplexity of the neighbours' words": ", ".join(f"{key}-skip {value:.2f}" for key, value in told.items()),
        },
        use="From Python: `cap2im.sentence_encoders.load_sentence_encoder(FOLDER).encode([...])`.",
    )


def classifier_card(name: str, recipe: ClassifierRecipe, figures: dict[str, Any]) -> str:
    """The card of a trained classifier."""
    return _card(
        name,
        recipe,
        figures,
        task="image-classification",
        of=f" of {recipe.train.batch_size} images",
        measured={f"{split} images right": _interval(found) for split, found in figures["accuracy"].items()},
        use="Make shortlists of its features: `cap2im evaluate MODEL --data DATA --shortlist FOLDER`.",
    )


def reader_card(name: str, recipe: DigitReaderRecipe, figures: dict[str, Any]) -> str:
    """The card of a trained reader."""
    return _card(
        name,
        recipe,
        figures,
        task=None,
        measured={
            "loss of the last hundred steps": f"{figures['loss']:.4f}",
            "real canvases of validation digits, exactly as asked": _interval(figures["joint"]),
            "digest": f"`{figures['digest']}`",
        },
        use="It reads the digits of drawings, and so tells how many captions are drawn rightly (`cap2im.metrics.caption_accuracy`).",
    )
