"""Structural similarity of drawings with the images of their captions (alignDRAW, section 4.1.3 and table 1), and nearest training images.

For every caption `SAMPLES` pictures are drawn from the prior. Each is compared with the caption's image: SSIM (Wang et al., 2004) of pixel
values in 0..1, a Gaussian window of 11 x 11 pixels with a deviation of 1.5, K1 = 0.01, K2 = 0.03, windows wholly inside of the image,
each colour by itself and then their mean; and PSNR in decibels. The mean is over all drawings, and so is the deviation that the paper
writes after its plus-minus sign. The paper tells neither its window nor how it treats colour.

Shapes: N captions, Q pictures, M training images, C colours, A side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cap2im.extras import require
from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.elbo import Sharpen
from cap2im.metrics.intervals import mean_and_error
from cap2im.models.interface import DrawingModel, pictures_at_once
from cap2im.models.precision import Precision, autocast
from cap2im.randomness import item_noise

METRIC_VERSION = 1  # goes up whenever the same drawings would get another number
SAMPLES = 50  # drawings of each caption in the paper
WINDOW = 11
HIGHEST_PSNR = 100  # decibels: a hundred-thousandth of white, far finer than the steps of stored pixels
IMAGES_AT_ONCE = 2_000


def structural_similarity(pictures: Tensor, images: Tensor) -> Tensor:
    """SSIM [B], from -1 to 1, of pictures and images [B, C, A, A] in 0..1; see the module's docstring for the window.

    Raises:
        ValueError: the pictures are smaller than the window, or torchmetrics is not installed.
    """
    if min(pictures.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM has a window of {WINDOW} pixels; these pictures have {min(pictures.shape[-2:])}")
    require("SSIM", "metrics", "torchmetrics")
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    planes, others = (each.flatten(0, 1).unsqueeze(1) for each in (pictures, images))  # a colour is a picture of its own
    found = ssim(planes, others, data_range=1.0, kernel_size=WINDOW, sigma=1.5, reduction="none")
    assert isinstance(found, Tensor)
    return found.view(pictures.shape[:2]).mean(dim=1)


def signal_to_noise(pictures: Tensor, images: Tensor) -> Tensor:
    """PSNR [B] in decibels of pictures and images [B, C, A, A] in 0..1, at most `HIGHEST_PSNR`, so that means are finite."""
    errors = (pictures - images).square().flatten(1).mean(dim=1)
    return -10 * errors.clamp(min=10 ** (-HIGHEST_PSNR / 10)).log10()


@torch.inference_mode()
def similarity(
    model: DrawingModel,
    images: Tensor,
    tokens: Tensor,
    mask: Tensor,
    vectors: Tensor | None = None,
    *,
    samples: int = SAMPLES,
    seed: int,
    precision: Precision = "fp32",
    sharpen: Sharpen | None = None,
    processes: ProcessGroup = ProcessGroup(),  # noqa: B008  # frozen
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """SSIM and PSNR of drawings with the images of their captions; JSON-ready.

    Args:
        model: any that draws.
        images: [N, C, A, A] in 0..1.
        tokens: [N, L] word numbers, and mask [N, L].
        vectors: [N, S] sentence vectors, for the models that are conditioned on them.
        samples: drawings of each caption.
        seed: of the drawings; a caption's noise is its own, by its row.
        precision: in which the model draws.
        sharpen: compares sharpened pictures in place of the drawings.
        processes: among processes.
        advance: told after each pass how many drawings it compared.

    Returns:
        for "ssim" and "psnr" the mean, the deviation over drawings, and the mean's standard error over captions.

    Raises:
        ValueError: of `structural_similarity`.
    """
    mine, device = processes.shard(len(images)), model.device
    scores = torch.empty(len(mine), samples, 2, dtype=torch.float64)
    jobs = torch.cartesian_prod(torch.arange(mine.start, mine.stop), torch.arange(samples)).view(-1, 2)
    for part in jobs.split(pictures_at_once(model.config.side)):
        rows, place = part[:, 0].unique(return_inverse=True)
        given = None if vectors is None else vectors[rows].to(device)
        text = model.encode(tokens[rows].to(device), mask[rows].to(device), given, independent=True)
        noise = torch.cat([item_noise("similarity", seed, [row], sample, model.noise_shape) for row, sample in part.tolist()])
        with autocast(device, precision):
            pictures = model.sample_images(None if text is None else text[place.to(device)], noise.to(device)).float()
        if sharpen is not None:
            pictures = sharpen(pictures, part[:, 0])
        theirs = images[part[:, 0]].to(device)
        both = torch.stack([structural_similarity(pictures, theirs), signal_to_noise(pictures, theirs)], dim=1)
        scores[part[:, 0] - mine.start, part[:, 1]] = both.double().cpu()
        advance(len(part))
    scores = processes.all_gather(scores)
    result: dict[str, Any] = {"captions": len(images), "samples": samples}
    for index, name in enumerate(("ssim", "psnr")):
        values = scores[..., index]
        mean, error = mean_and_error(values.mean(dim=1))
        result[name] = {"mean": mean, "deviation": values.std().item(), "standard_error": error}
    return result


@torch.inference_mode()
def nearest_images(pictures: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """The training image nearest to each picture, pixel by pixel (figure 4): its row [Q] and its Euclidean distance [Q], exact.

    Args:
        pictures: [Q, C, A, A] in 0..1.
        images: [M, C, A, A] uint8.

    Raises:
        ValueError: there are no images, or they have another shape.
    """
    if not len(images) or pictures.shape[1:] != images.shape[1:]:
        raise ValueError(f"images of shape {list(images.shape)} cannot be near to pictures of shape {list(pictures.shape)}")
    wanted = pictures.flatten(1).double()
    nearest = torch.full((len(wanted),), torch.inf, dtype=torch.float64, device=wanted.device)
    rows = torch.zeros(len(wanted), dtype=torch.long, device=wanted.device)
    for start in range(0, len(images), IMAGES_AT_ONCE):
        part = images[start : start + IMAGES_AT_ONCE].to(wanted.device).flatten(1).double() / 255
        distance, row = (part.square().sum(dim=1) - 2 * wanted @ part.T).min(dim=1)  # but for what is equal for a picture
        rows = torch.where(distance < nearest, start + row, rows)
        nearest = torch.minimum(nearest, distance)
    there = images[rows.to(images.device)].to(wanted.device).flatten(1).double() / 255
    return rows, (wanted - there).norm(dim=1)
