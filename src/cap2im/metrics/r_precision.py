"""R-precision: does a picture match the caption it belongs to better than others, by a matching model?

The protocol of AttnGAN (arXiv:1711.10485, section 4) with R = 1: a picture ranks its own caption among 99 others, drawn at random
without replacement, by the cosine of the matching model's code of the whole image and its sentence vectors. The rate is the share of
pictures whose own caption is first; among captions that tie for the first place each is as likely to be it. Others are captions of other
classes alone: another caption of the same image, or of the same scene, would be no wrong answer. Which others a picture has depends on the
seed and its number, neither on the model nor on the processes that share the work. Chance is 1 %.

A generator that learned from a matching model is measured by that very model, as published: no other model may be compared with it so.

Shapes: N pictures with their captions, E features, C colours, A side, L words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.intervals import wilson
from cap2im.models.damsm import DAMSM, DAMSMConfig
from cap2im.randomness import generator

METRIC_VERSION = 1  # goes up whenever the same codes would get another number
OTHERS = 99
IMAGES_AT_ONCE = 100


def require_sight(name: str, seen: DAMSMConfig, drawer: str, side: int, colours: int) -> None:
    """Raises ValueError where a matching model `name` sees pictures of another size or number of colours than `drawer` draws."""
    any_side = seen.image_encoder == "inception"  # which resizes them
    if seen.colours != colours or not (any_side or seen.side == side):
        sees = f"{'pictures of any side' if any_side else f'{seen.side} x {seen.side} pixels'} in {seen.colours} colours"
        raise ValueError(f"{name} sees {sees}, and {drawer} draws {side} x {side} in {colours}")


@torch.no_grad()
def matching_codes(damsm: DAMSM, images: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What a matching model says of pictures and captions as wholes.

    Args:
        damsm: in evaluation mode.
        images: [N, C, A, A] in 0..1.
        tokens: [N, L] word numbers.
        mask: [N, L] true for words.

    Returns:
        codes [N, E] of the images and vectors [N, E] of the sentences.
    """
    device = next(damsm.parameters()).device
    codes, sentences = [], []
    for start in range(0, len(images), IMAGES_AT_ONCE):
        part = slice(start, start + IMAGES_AT_ONCE)
        codes.append(damsm.image(2 * images[part].to(device) - 1).code.cpu())
        sentences.append(damsm.text(tokens[part].to(device), mask[part].to(device)).sentence.cpu())
    return torch.cat(codes), torch.cat(sentences)


def fewest_wrong(count: int, classes: Tensor | None) -> int:
    """How many captions are wrong for a pair, of N pairs of classes [N] or None, where it has the fewest."""
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
    """For each picture whether its own caption is first: [N] of 1, 0, or 1 / k where k captions tie for the first place.

    Args:
        codes: [N, E] of pictures.
        sentences: [N, E] of their captions.
        classes: [N] equal for pairs that are no wrong match for each other; None where all others are wrong.
        others: captions beside a picture's own.
        seed: chooses them.
        processes: processes that share the pictures.
        advance: is told after each picture.

    Raises:
        ValueError: a picture has fewer wrong captions than `others`.
    """
    codes, sentences = (torch.nn.functional.normalize(vectors.double(), dim=1) for vectors in (codes, sentences))
    numbers = torch.arange(len(codes))
    kinds = numbers if classes is None else classes.cpu()
    found = []
    for item in processes.shard(len(codes)):
        wrong = (kinds != kinds[item]).nonzero().flatten()
        if len(wrong) < others:
            raise ValueError(f"R-precision among {others + 1} captions: of {len(codes)} pairs only {len(wrong)} captions are wrong for one")
        chosen = wrong[torch.randperm(len(wrong), generator=generator("R-precision", seed, item))[:others]]
        cosines = sentences[torch.cat([numbers[item : item + 1], chosen])] @ codes[item]
        best = cosines == cosines.max()
        found.append(best[0] / best.sum())
        advance(1)
    return processes.all_gather(torch.stack(found) if found else torch.empty(0))


def rate(successes: Tensor) -> dict[str, Any]:
    """The R-precision of pictures [N] that `own_caption_first` judged, with its 95 % Wilson interval; JSON-ready."""
    won, n = float(successes.double().sum()), len(successes)
    low, high = wilson(won, n)
    return {"rate": won / n, "low": low, "high": high, "n": n}


def r_precision(codes: Tensor, sentences: Tensor, classes: Tensor | None = None, *, others: int = OTHERS, **how: Any) -> dict[str, Any]:
    """R-precision with its interval and chance; for the arguments and errors see `own_caption_first`."""
    return {**rate(own_caption_first(codes, sentences, classes, others=others, **how)), "chance": 1 / (others + 1)}
