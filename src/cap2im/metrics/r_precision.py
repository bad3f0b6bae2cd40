"""R-precision: whether a picture matches its own caption better than others, by a DAMSM.

The protocol of AttnGAN (arXiv:1711.10485, section 4) with R = 1: a picture ranks its own caption among 99 others, drawn at random without
replacement, by the cosine of the DAMSM's global image features and sentence features. The rate is the share of pictures whose own caption
is first; captions that tie for the first place share it equally. Other captions are those of other classes: a second caption of the same
image, or of the same scene, would be no wrong match. The choice of captions depends on the seed and the picture's number, not on the model
or the number of processes. Chance is 1 %.

A generator that was trained with a DAMSM is measured by the same DAMSM, as published; other models must not be compared with it this way.

Shapes: N pictures with their captions, E features, C colours, A side, L words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.measurement import Measurement, proportion
from cap2im.models.damsm import DAMSM, DAMSMConfig
from cap2im.randomness import generator

OTHERS = 99
IMAGES_AT_ONCE = 100


def require_pictures(name: str, config: DAMSMConfig, drawer: str, side: int, colours: int) -> None:
    """Check that a DAMSM takes the pictures that a model draws.

    Args:
        name: of the DAMSM, for the message.
        config: of the DAMSM.
        drawer: name of the model that draws, for the message.
        side: of its pictures, in pixels.
        colours: of its pictures.

    Raises:
        ValueError: the pictures have another size or number of colours.
    """
    any_side = config.image_encoder == "inception"  # which resizes them
    if config.colours != colours or not (any_side or config.side == side):
        takes = f"{'pictures of any side' if any_side else f'{config.side} x {config.side} pixels'} in {config.colours} colours"
        raise ValueError(f"{name} takes {takes}, and {drawer} draws {side} x {side} in {colours}")


@torch.no_grad()
def global_features(damsm: DAMSM, images: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Encode pictures and captions with a DAMSM.

    Args:
        damsm: in evaluation mode.
        images: [N, C, A, A] in 0..1.
        tokens: [N, L] word numbers.
        mask: [N, L] true for words.

    Returns:
        global features [N, E] of the images and sentence features [N, E], on the CPU.
    """
    device = next(damsm.parameters()).device
    codes, sentences = [], []
    for start in range(0, len(images), IMAGES_AT_ONCE):
        part = slice(start, start + IMAGES_AT_ONCE)
        codes.append(damsm.image(2 * images[part].to(device) - 1).code.cpu())
        sentences.append(damsm.text(tokens[part].to(device), mask[part].to(device)).sentence.cpu())
    return torch.cat(codes), torch.cat(sentences)


def fewest_wrong(count: int, classes: Tensor | None) -> int:
    """Return the smallest number of wrong captions of one of N pairs.

    Args:
        count: N.
        classes: [N] equal for pairs that are no wrong match for each other; None if all others are wrong.
    """
    return count - (1 if classes is None else int(classes.unique(return_counts=True)[1].max()))


def own_caption_first(
    codes: Tensor,
    sentences: Tensor,
    classes: Tensor | None = None,
    *,
    others: int = OTHERS,
    seed: int = 0,
    processes: ProcessGroup = ProcessGroup(),  # noqa: B008  # frozen
    advance: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """Return for each picture whether its own caption is first: [N] of 1, 0, or 1 / k where k captions tie for the first place.

    Args:
        codes: [N, E] of pictures.
        sentences: [N, E] of their captions.
        classes: [N] equal for pairs that are no wrong match for each other; None if all others are wrong.
        others: number of other captions.
        seed: chooses them.
        processes: share the pictures.
        advance: called after each picture with 1.

    Raises:
        ValueError: a picture has fewer wrong captions than `others`.
    """
    codes, sentences = (torch.nn.functional.normalize(vectors.double(), dim=1) for vectors in (codes, sentences))
    numbers = torch.arange(len(codes))
    kinds = numbers if classes is None else classes.cpu()
    first = []
    for item in processes.shard(len(codes)):
        wrong = (kinds != kinds[item]).nonzero().flatten()
        if len(wrong) < others:
            raise ValueError(f"R-precision among {others + 1} captions: of {len(codes)} pairs only {len(wrong)} captions are wrong for one")
        chosen = wrong[torch.randperm(len(wrong), generator=generator("R-precision", seed, item))[:others]]
        cosines = sentences[torch.cat([numbers[item : item + 1], chosen])] @ codes[item]
        best = cosines == cosines.max()
        first.append(best[0] / best.sum())
        advance(1)
    return processes.all_gather(torch.stack(first) if first else torch.empty(0))


def rate(first: Tensor, *, others: int = OTHERS, **fields: Any) -> Measurement:
    """Return the R-precision of pictures.

    Args:
        first: [N] of `own_caption_first`.
        others: number of other captions of each picture.
        **fields: other fields of the `Measurement`.
    """
    protocol = {"wrong_captions": others}
    successes = float(first.double().sum())
    return proportion("R-precision", successes, len(first), chance=1 / (others + 1), protocol=protocol, **fields)


def r_precision(codes: Tensor, sentences: Tensor, classes: Tensor | None = None, seed: int = 0, *, others: int = OTHERS) -> Measurement:
    """Return the R-precision of pictures; see `own_caption_first` for the arguments and errors."""
    return rate(own_caption_first(codes, sentences, classes, others=others, seed=seed), others=others)
