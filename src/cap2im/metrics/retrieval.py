"""Image retrieval (alignDRAW, section 4.1.3 and table 1): a caption ranks the images of a shortlist by the likelihood a model gives them.

The protocol, which follows Kiros et al. (arXiv:1411.2539):

- shortlist: the image of the caption and the 99 images of the split that are nearest to it, by Euclidean distance in the last fully
  connected features of the VGG-like network. The paper's own shortlists lie in `test-nns.pkl`; see `read_shortlists`.
- score: bound(x | caption) - bound(x | mean), where the mean is a sentence of one word, whose vector is the mean of the sentence
  representations (`EncodedText.sentence`, or the sentence vectors) of all training captions. Images that are likely under any caption
  win nothing by that.
- noise: an image's posterior noise is the same under all captions and under the mean. Both terms of a score then stray alike, and the
  difference strays less than either (common random numbers); so do the scores of one image under two captions.
- rank: 1 + the number of images with a higher score. Tied images count as if all their orders were equally likely: R@K is the share of
  those orders in which the image is among the first K, and the rank their mean. A model that answers a constant gets chance.

R@K has 95 % Wilson intervals, the median rank the middle 95 % of `RESAMPLES` bootstrap medians over captions. Chance stands beside them.

Shapes: N captions, K images of a shortlist, M images, F features, C colours, A side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cap2im.convert.pickles import read_pickle
from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.intervals import wilson
from cap2im.models.interface import LikelihoodModel
from cap2im.models.text import EncodedText, sentences_as_text
from cap2im.models.vgg import VGG
from cap2im.randomness import generator, item_noise

METRIC_VERSION = 1  # goes up whenever the same model would get another number
RECALLS = (1, 5, 10, 50)
RESAMPLES = 1_000
PAIRS_AT_ONCE = 500  # (caption, image) pairs in a batch: enough for fat matrix products, and little enough for the processor's caches
CAPTIONS_AT_ONCE = 500
IMAGES_AT_ONCE = 500
DISTANCES_AT_ONCE = 2**24  # numbers in a block of distances


@torch.inference_mode()
def image_features(
    vgg: VGG,
    images: Tensor,
    processes: ProcessGroup = ProcessGroup(),  # noqa: B008  # frozen
    advance: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """Features [M, F] of images [M, C, A, A] uint8; `advance` is told after each batch how many images it had."""
    mine = processes.shard(len(images))
    features = [vgg.features(images[:0].float())]
    for start in mine[::IMAGES_AT_ONCE]:
        part = images[start : min(start + IMAGES_AT_ONCE, mine.stop)]
        features.append(vgg.features(part.float() / 255))
        advance(len(part))
    return processes.all_gather(torch.cat(features))


def require_candidates(size: int, images: int) -> None:
    """Raises ValueError where there are no shortlists of so many images."""
    if not 2 <= size <= images:
        raise ValueError(f"shortlists of {size} images out of {images}: at least 2 are needed, and no more than there are")


def nearest_shortlists(features: Tensor, images: Tensor, size: int = 100) -> Tensor:
    """Shortlists [N, K] of images [N]: each itself, then those nearest to it, nearest first.

    Exact: distances in float64 over all pairs, by matrix products.

    Args:
        features: [M, F] of all images.
        images: [N] rows of the images whose shortlists are made.
        size: K.

    Raises:
        ValueError: there are fewer images than K.
    """
    require_candidates(size, len(features))
    features = features.double()
    found = []
    for rows in images.split(max(1, DISTANCES_AT_ONCE // len(features))):
        distances = features.square().sum(dim=1) - 2 * features[rows] @ features.T  # but for what is equal in a row
        distances[torch.arange(len(rows)), rows] = -torch.inf  # the image itself comes first, also among copies of it
        found.append(distances.topk(size, largest=False).indices)
    return torch.cat(found)


def read_shortlists(path: Path, captions: Tensor, image_of: Tensor, images: int, all_captions: int) -> Tensor:
    """The shortlists [N, K] of some captions out of a pickle such as the authors' `test-nns.pkl`; nothing in it is executed.

    That file is not at hand any more, and its layout was never described. Assumed is an array, or a list of lists, of image numbers that
    count from 0 in the order of the dataset, all lists of one length: one list for each image, or one for each caption. Where no list has
    its own image, it is put in front.

    Args:
        path: of the pickle.
        captions: [N] rows of the captions.
        image_of: [N] rows of their images.
        images: number of images in the split.
        all_captions: number of captions in the split.

    Raises:
        ValueError: it is laid out in another way, names images that are not there or one of them twice in a list, or some lists have their
            own image and others have not.
    """
    table = read_pickle(path)
    try:
        if not isinstance(table, (list, tuple, np.ndarray)):
            raise TypeError
        lists = np.stack([np.asarray(row) for row in table])
    except (TypeError, ValueError):
        raise ValueError(f"{path}: not a list of lists of image numbers, all of one length") from None
    if lists.ndim != 2 or lists.dtype.kind not in "iu" or lists.shape[1] < 2:
        raise ValueError(f"{path}: {lists.dtype} of shape {list(lists.shape)}; expected whole numbers [lists, 2 or more]")
    if len(lists) not in (images, all_captions):
        raise ValueError(f"{path}: {len(lists):,} lists; expected one for each of {images:,} images or {all_captions:,} captions")
    if lists.min() < 0 or lists.max() >= images:
        raise ValueError(f"{path}: image numbers from {lists.min()} to {lists.max()}; there are 0 to {images - 1}")
    chosen = torch.from_numpy(lists.astype(np.int64))[image_of if len(lists) == images else captions]
    has_own = (chosen == image_of[:, None]).any(dim=1)
    if not has_own.any():
        chosen = torch.cat([image_of[:, None], chosen], dim=1)
    elif not has_own.all():
        raise ValueError(f"{path}: the list of caption {int(captions[~has_own][0])} lacks its own image, and others have theirs")
    ordered = chosen.sort(dim=1).values
    if bool((twice := (ordered[:, 1:] == ordered[:, :-1]).any(dim=1)).any()):
        raise ValueError(f"{path}: the list of caption {int(captions[twice][0])} names an image twice")
    return chosen


@torch.inference_mode()
def mean_sentence(
    model: LikelihoodModel,
    captions: Sequence[tuple[Tensor, Tensor]],
    processes: ProcessGroup = ProcessGroup(),  # noqa: B008  # frozen
    advance: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """The mean sentence representation [D] of captions, for the models that read words.

    Args:
        model: reads them.
        captions: batches of tokens [B, L] and mask [B, L].
        processes: among processes.
        advance: told after each batch how many captions it had.
    """
    sums: list[Tensor] = []
    for tokens, mask in (captions[i] for i in processes.shard(len(captions))):
        text = model.encode(tokens.to(model.device), mask.to(model.device), independent=True)
        assert text is not None
        sums.append(torch.cat([text.sentence.double().sum(dim=0), text.sentence.new_tensor([len(tokens)]).double()]).cpu())
        advance(len(tokens))
    total = processes.all_gather(torch.stack(sums) if sums else torch.empty(0)).sum(dim=0)
    return total[:-1] / total[-1]


@torch.inference_mode()
def likelihood_ratios(
    model: LikelihoodModel,
    images: Tensor,
    tokens: Tensor,
    mask: Tensor,
    vectors: Tensor | None,
    mean: Tensor,
    shortlists: Tensor,
    *,
    samples: int,
    seed: int,
    processes: ProcessGroup = ProcessGroup(),  # noqa: B008  # frozen
    advance: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """bound(x | caption) - bound(x | mean) [N, K], float64, of the images of each caption's shortlist.

    Args:
        model: any that has a bound and hears captions.
        images: [M, C, A, A] uint8.
        tokens: [N, L] word numbers, and mask [N, L].
        vectors: [N, S] sentence vectors, for the models that are conditioned on them.
        mean: [D] the mean sentence representation of the training captions.
        shortlists: [N, K] rows of images.
        samples: L posterior samples for each bound; sample l of an image has the same noise under every caption.
        seed: of that noise.
        processes: among processes.
        advance: told after each pass how many bounds it did; in all `(N K + different images) L`.

    Raises:
        ValueError: a bound is not finite.
    """
    device = model.device

    def bounds(rows: Tensor, text: EncodedText) -> Tensor:
        here, numbers = images[rows].to(device).float() / 255, rows.tolist()
        total = torch.zeros(len(rows), dtype=torch.float64)
        for sample in range(samples):
            noise = item_noise("retrieval", seed, numbers, sample, model.noise_shape)
            total += model.bound(here, text, noise.to(device)).value.double().cpu()
            advance(len(rows))
        if not total.isfinite().all():
            raise ValueError(f"image {int(rows[~total.isfinite()][0])}: its bound is not finite, and cannot be ranked")
        return total / samples

    used, place = shortlists.unique(return_inverse=True)  # [images], [N, K]
    mine = processes.shard(len(used))
    average = mean.to(device, model_dtype(model))[None]
    alike = [bounds(rows, sentences_as_text(average.expand(len(rows), -1))) for rows in used[mine.start : mine.stop].split(PAIRS_AT_ONCE)]
    under_mean = processes.all_gather(torch.cat(alike))[place]  # [N, K]

    mine, size = processes.shard(len(shortlists)), shortlists.shape[1]
    found = []
    for rows in torch.arange(mine.start, mine.stop).split(max(1, PAIRS_AT_ONCE // size)):
        longest = int(mask[rows].sum(dim=1).max())
        given = None if vectors is None else vectors[rows].to(device)
        text = model.encode(tokens[rows, :longest].to(device), mask[rows, :longest].to(device), given, independent=True)
        assert text is not None
        pairs = torch.arange(len(rows), device=device).repeat_interleave(size)
        found.append(bounds(shortlists[rows].flatten(), text[pairs]).view(len(rows), size))
    return processes.all_gather(torch.cat([torch.empty(0, size, dtype=torch.float64), *found])) - under_mean


def model_dtype(model: LikelihoodModel) -> torch.dtype:
    """The type of a model's numbers."""
    return next(model.parameters()).dtype


def places(scores: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """How many images of a shortlist score higher than its own [N], and how many others as high [N].

    Args:
        scores: [N, K], higher is better.
        own: [N] where the caption's image stands in its shortlist.
    """
    score = scores.gather(1, own[:, None])
    return (scores > score).sum(dim=1), (scores == score).sum(dim=1) - 1


def summary(scores: Tensor, own: Tensor, seed: int) -> dict[str, Any]:
    """R@1, R@5, R@10, R@50 (those below K) and the median rank, with 95 % intervals and chance; JSON-ready.

    Args:
        scores: [N, K] of `likelihood_ratios`.
        own: [N] where the caption's image stands in its shortlist.
        seed: of the bootstrap.
    """
    n, size = scores.shape
    higher, tied = places(scores, own)
    result: dict[str, Any] = {"captions": n, "candidates": size}
    for k in (k for k in RECALLS if k < size):
        found = ((k - higher) / (tied + 1)).clamp(0, 1).sum().item()  # the share of orders of the tied that let it be among the first k
        low, high = wilson(found, n)
        result[f"R@{k}"] = {"rate": found / n, "low": low, "high": high, "chance": k / size}
    ranks = 1 + higher + tied / 2
    resamples = torch.randint(n, (RESAMPLES, n), generator=generator("bootstrap", seed))
    low, high = ranks[resamples].quantile(0.5, dim=1).quantile(torch.tensor([0.025, 0.975])).tolist()
    result["median_rank"] = {"rank": ranks.quantile(0.5).item(), "low": low, "high": high, "chance": (size + 1) / 2}
    return result
