"""The model card that training writes beside its weights."""

from __future__ import annotations

from typing import Any

import torch

import cap2im
from cap2im.config import AttnGANRecipe, BoundRecipe, ClassifierRecipe, DAMSMRecipe, GANRecipe, SkipThoughtsRecipe
from cap2im.training.loop import machine

WHAT_IS_MATCHED = {
    "validation": "validation images",
    "seen": "validation digits, captions that training shows",
    "held_out": "validation digits, captions that it does not",
}

CARD = """---
library_name: cap2im
pipeline_tag: text-to-image
license: mit
---

# {name}

{description}.

| | |
| --- | --- |
| command | `{command}` |
{origin}| seed | {seed} |
| updates | {steps:,} |
| time | {hours:.2f} h on {machine} |
| parameters | {parameters:,} |
| validation bound | {bound:.2f} nats an image (KL {kl:.2f}), one posterior sample; pixels: {observation} |
| written by | cap2im {version}, torch {torch} |

Draw with it: `cap2im draw CAPTION --model FOLDER`. Measure it: `cap2im evaluate FOLDER`.
"""


def bound_card(name: str, recipe: BoundRecipe, figures: dict[str, Any]) -> str:
    """The card of a model trained by its bound: how it was made, and the figures that training measured."""
    return CARD.format(
        name=name,
        description=recipe.description,
        command=figures["command"],
        origin=f"| started from | weights of SHA-256 {figures['started_from']} |\n" if "started_from" in figures else "",
        seed=recipe.train.seed,
        steps=figures["steps"],
        hours=figures["seconds"] / 3600,
        machine=machine(),
        parameters=figures["parameters"],
        bound=figures["validation/bound"],
        kl=figures["validation/kl"],
        observation=figures["observation"],
        version=cap2im.__version__,
        torch=torch.__version__,
    )


GAN_CARD = """---
library_name: cap2im
pipeline_tag: {task}
license: mit
---

# {name}

{description}.

| | |
| --- | --- |
| command | `{command}` |
| seed | {seed} |
| updates | {steps:,} |
| time | {hours:.2f} h on {machine} |
| parameters | {parameters:,}, without discriminators |
| validation images, drawn ones taken for real by the discriminators | {taken} |
| squared error a pixel of blurred images, sharpened ones | {blurred:.5f}, {sharpened:.5f} |
| written by | cap2im {version}, torch {torch} |

{use}
"""


def gan_card(name: str, recipe: GANRecipe, figures: dict[str, Any]) -> str:
    """The card of a trained LAPGAN or sharpener."""
    draws = recipe.kind == "lapgan"
    return GAN_CARD.format(
        name=name,
        task="text-to-image" if draws else "image-to-image",
        description=recipe.description,
        command=figures["command"],
        seed=recipe.train.seed,
        steps=figures["steps"],
        hours=figures["seconds"] / 3600,
        machine=machine(),
        parameters=figures["parameters"],
        taken=", ".join(
            f"{level} {figures[f'validation/{level}_real']:.0%}, {figures[f'validation/{level}_drawn']:.0%}"
            for level in (("coarse", "fine") if draws else ("fine",))
        ),
        blurred=figures["validation/blurred_error"],
        sharpened=figures["validation/sharpened_error"],
        version=cap2im.__version__,
        torch=torch.__version__,
        use="Draw with it: `cap2im draw CAPTION --model FOLDER`." if draws else "Use it: `cap2im draw CAPTION --sharpen FOLDER`.",
    )


MATCHING_CARD = """---
library_name: cap2im
license: mit
---

# {name}

{description}.

| | |
| --- | --- |
| command | `{command}` |
{inception}| seed | {seed} |
| updates | {steps:,} of {batch_size} pairs |
| time | {hours:.2f} h on {machine} |
| parameters | {parameters:,} |
| validation loss | {loss:.3f} |
{precisions}| written by | cap2im {version}, torch {torch} |

Train an AttnGAN with it: `cap2im train attngan-... --set train.damsm=FOLDER`.
"""


def matching_card(name: str, recipe: DAMSMRecipe, figures: dict[str, Any]) -> str:
    """The card of a trained matching model."""
    found = figures["r_precision"]
    told = (
        f"| R-precision of {WHAT_IS_MATCHED[group]}, 1 true caption of {found['others'] + 1} | {a['rate']:.2%} (95 % interval "
        f"{a['low']:.2%} to {a['high']:.2%}) of {a['n']:,} |\n"
        for group, a in found.items()
        if group in WHAT_IS_MATCHED
    )
    return MATCHING_CARD.format(
        name=name,
        description=recipe.description,
        command=figures["command"],
        inception=f"| Inception | weights of SHA-256 {figures['inception']} |\n" if "inception" in figures else "",
        seed=recipe.train.seed,
        steps=figures["steps"],
        batch_size=recipe.train.batch_size,
        hours=figures["seconds"] / 3600,
        machine=machine(),
        parameters=figures["parameters"],
        loss=figures["validation/loss"],
        precisions="".join(told),
        version=cap2im.__version__,
        torch=torch.__version__,
    )


ATTNGAN_CARD = """---
library_name: cap2im
pipeline_tag: text-to-image
license: mit
---

# {name}

{description}.

| | |
| --- | --- |
| command | `{command}` |
| seed | {seed} |
| updates | {steps:,} of {batch_size} captions |
| time | {hours:.2f} h on {machine} |
| parameters | {parameters:,} with the text encoder, without discriminators |
| matching model | {damsm}, weights of SHA-256 {digest} |
| validation images told apart from drawn ones by the discriminators (chance is 50%) | {apart} |
| R-precision of the drawn ones, by the matching model that they learned from, 1 true caption of at most 100 | {matched:.1%} |
| written by | cap2im {version}, torch {torch} |

Draw with it: `cap2im draw CAPTION --model FOLDER`.
"""


def attngan_card(name: str, recipe: AttnGANRecipe, figures: dict[str, Any]) -> str:
    """The card of a trained AttnGAN or AttnDCGAN."""
    apart = {key.rpartition("_")[2]: share for key, share in figures.items() if key.startswith("validation/told_apart_")}
    return ATTNGAN_CARD.format(
        name=name,
        description=recipe.description,
        command=figures["command"],
        seed=recipe.train.seed,
        steps=figures["steps"],
        batch_size=recipe.train.batch_size,
        hours=figures["seconds"] / 3600,
        machine=machine(),
        parameters=figures["parameters"],
        damsm=figures["damsm"]["name"],
        digest=figures["damsm"]["sha256"],
        apart=", ".join(f"{side} px {share:.0%}" for side, share in apart.items()),
        matched=figures["validation/matched"],
        version=cap2im.__version__,
        torch=torch.__version__,
    )


SENTENCES_CARD = """---
library_name: cap2im
pipeline_tag: feature-extraction
license: mit
---

# {name}

{description}.

| | |
| --- | --- |
| command | `{command}` |
| seed | {seed} |
| sentences | {sentences:,} (SHA-256 of their words {digest}) |
| updates | {steps:,} of {batch_size} triples |
| time | {hours:.2f} h on {machine} |
| parameters | {parameters:,}, without decoders |
| validation perplexity of the neighbours' words | {perplexities} |
| written by | cap2im {version}, torch {torch} |

From Python: `cap2im.sentences.load_sentence_encoder(FOLDER).encode([...])`.
"""


def sentences_card(name: str, recipe: SkipThoughtsRecipe, figures: dict[str, Any]) -> str:
    """The card of trained skip-thoughts."""
    told = {key.rpartition("_")[2]: value for key, value in figures.items() if key.startswith("validation/perplexity_")}
    return SENTENCES_CARD.format(
        name=name,
        description=recipe.description,
        command=figures["command"],
        seed=recipe.train.seed,
        sentences=figures["data"]["sentences"],
        digest=figures["data"]["sha256"],
        steps=figures["steps"],
        batch_size=recipe.train.batch_size,
        hours=figures["seconds"] / 3600,
        machine=machine(),
        parameters=figures["parameters"],
        perplexities=", ".join(f"{key}-skip {value:.2f}" for key, value in told.items()),
        version=cap2im.__version__,
        torch=torch.__version__,
    )


CLASSIFIER_CARD = """---
library_name: cap2im
pipeline_tag: image-classification
license: mit
---

# {name}

{description}.

| | |
| --- | --- |
| command | `{command}` |
| seed | {seed} |
| updates | {steps:,} of {batch_size} images |
| time | {hours:.2f} h on {machine} |
| parameters | {parameters:,} |
{accuracies}| written by | cap2im {version}, torch {torch} |

Make shortlists of its features: `cap2im evaluate MODEL --data DATA --shortlist FOLDER`.
"""


def classifier_card(name: str, recipe: ClassifierRecipe, figures: dict[str, Any]) -> str:
    """The card of a trained classifier."""
    told = (
        f"| {split} images right | {a['rate']:.2%} (95 % interval {a['low']:.2%} to {a['high']:.2%}) of {a['n']:,} |\n"
        for split, a in figures["accuracy"].items()
    )
    return CLASSIFIER_CARD.format(
        name=name,
        description=recipe.description,
        command=figures["command"],
        seed=recipe.train.seed,
        steps=figures["steps"],
        batch_size=recipe.train.batch_size,
        hours=figures["seconds"] / 3600,
        machine=machine(),
        parameters=figures["parameters"],
        accuracies="".join(told),
        version=cap2im.__version__,
        torch=torch.__version__,
    )
