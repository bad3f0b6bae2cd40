"""Similarity of drawings with the images of their captions (alignDRAW, section 4.1.3 and table 1).

For each caption, `SAMPLES` pictures are drawn from the prior and compared with the caption's image: SSIM (Wang et al., 2004) by
torchmetrics, of pixels in 0..1, with a Gaussian window of 11 x 11 pixels with a standard deviation of 1.5, K1 = 0.01, K2 = 0.03, on windows
inside the image, averaged over colours; and PSNR in decibels. The paper describes neither its window nor its handling of colour.

torchmetrics' PSNR is not used: it is infinite where a drawing equals its image, and so would be means; here it stops at `HIGHEST_PSNR`.

Shapes: N captions, S samples, C colours, A side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cap2im.extras import require
from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.elbo import Sharpen
from cap2im.metrics.measurement import ItemValues, Measurement, mean
from cap2im.models.interface import DrawingModel
from cap2im.models.precision import Precision, autocast
from cap2im.randomness import item_noise

SAMPLES = 50  # drawings of each caption in the paper
WINDOW = 11
HIGHEST_PSNR = 100  # decibels: an error of a hundred-thousandth of white, far below the steps of stored pixels


def structural_similarity(pictures: Tensor, images: Tensor) -> Tensor:
    """Return the SSIM [B], in -1..1, of pictures and images [B, C, A, A] in 0..1.

    Raises:
        ValueError: the pictures are smaller than the window, or torchmetrics is not installed.
    """
    if min(pictures.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM needs pictures of at least {WINDOW} pixels (its window), got {min(pictures.shape[-2:])}")
    require("SSIM", "metrics", "torchmetrics")
    from torchmetrics.functional.image import structural_similarity_index_measure

    planes, others = (each.flatten(0, 1).unsqueeze(1) for each in (pictures, images))  # [B C, 1, A, A]
    scores = structural_similarity_index_measure(planes, others, data_range=1.0, kernel_size=WINDOW, sigma=1.5, reduction="none")
    assert isinstance(scores, Tensor)
    return scores.view(pictures.shape[:2]).mean(dim=1)


def signal_to_noise(pictures: Tensor, images: Tensor) -> Tensor:
    """Return the PSNR [B] in decibels, at most `HIGHEST_PSNR`, of pictures and images [B, C, A, A] in 0..1."""
    errors = (pictures - images).square().flatten(1).mean(dim=1)
    return -10 * errors.clamp(min=10 ** (-HIGHEST_PSNR / 10)).log10()


@torch.inference_mode()
def compare_drawings(
    model: DrawingModel,
    images: Tensor,
    tokens: Tensor,
    mask: Tensor,
    vectors: Tensor | None = None,
    *,
    samples: int = SAMPLES,
    seed: int,
    batch_size: int = 100,
    precision: Precision = "fp32",
    sharpen: Sharpen | None = None,
    processes: ProcessGroup = ProcessGroup(),  # noqa: B008  # frozen
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[Tensor, Tensor]:
    """Draw captions and compare each drawing with the image of its caption.

    Args:
        model: the network.
        images: [N, C, A, A] in 0..1.
        tokens: [N, L] word numbers.
        mask: [N, L] true for words.
        vectors: [N, D] sentence vectors, for models that are conditioned on them.
        samples: S drawings of each caption.
        seed: of the drawings, whose noise is a function of seed, row and sample.
        batch_size: drawings at a time.
        precision: numeric precision of the drawings.
        sharpen: sharpens the drawings first.
        processes: share the captions.
        advance: called after each batch with its number of drawings.

    Returns:
        SSIM [N, S] and PSNR [N, S] of all drawings, in every process.

    Raises:
        ValueError: of `structural_similarity`.
    """
    shard, device = processes.shard(len(images)), model.device
    scores = torch.empty(len(shard), samples, 2, dtype=torch.float64)
    jobs = torch.cartesian_prod(torch.arange(shard.start, shard.stop), torch.arange(samples)).view(-1, 2)
    for part in jobs.split(batch_size):
        rows, place = part[:, 0].unique(return_inverse=True)
        batch_vectors = None if vectors is None else vectors[rows].to(device)
        text = model.encode(tokens[rows].to(device), mask[rows].to(device), batch_vectors, independent=True)
        noise = torch.cat([item_noise("similarity", seed, [row], sample, model.noise_shape) for row, sample in part.tolist()])
        with autocast(device, precision):
            pictures = model.sample_images(None if text is None else text[place.to(device)], noise.to(device)).float()
        if sharpen is not None:
            pictures = sharpen(pictures, part[:, 0])
        targets = images[part[:, 0]].to(device)
        both = torch.stack([structural_similarity(pictures, targets), signal_to_noise(pictures, targets)], dim=1)
        scores[part[:, 0] - shard.start, part[:, 1]] = both.double().cpu()
        advance(len(part))
    scores = processes.all_gather(scores)
    return scores[..., 0], scores[..., 1]


def ssim(similarities: Tensor, ratios: Tensor) -> list[Measurement]:
    """Return the mean SSIM and PSNR, with the deviation over drawings after ±, as in the paper, and intervals of the means over captions.

    Args:
        similarities: [N, S] SSIM.
        ratios: [N, S] PSNR.
    """
    drawings = "standard deviation over drawings"
    protocol = {"samples": similarities.shape[1], "window": WINDOW, "data_range": 1.0}
    of_captions = similarities.mean(dim=1)
    common: dict[str, Any] = {"deviation_of": drawings, "protocol": protocol}
    return [
        mean("SSIM", of_captions, deviation=similarities.std().item(), digits=3, per_item=ItemValues.of(of_captions), **common),
        mean("PSNR", ratios.mean(dim=1), deviation=ratios.std().item(), unit="dB", **common),
    ]
