"""Image retrieval (alignDRAW, section 4.1.3 and table 1): a caption ranks the images of a shortlist by their likelihood.

The protocol follows Kiros et al. (arXiv:1411.2539):

- Shortlist: the caption's image and the 99 images of the split nearest to it, by Euclidean distance in the last fully connected features of
  the VGG-like network. The paper's own shortlists are in `test-nns.pkl`.
- Score: bound(x | caption) - bound(x | mean). The mean is a sentence of one word, whose vector is the mean of the sentence representations
  (`EncodedText.sentence`, or the sentence vectors) of all training captions. Images that are likely under every caption gain nothing.
- Noise: the posterior noise of an image is the same under all captions and under the mean (common random numbers), which lowers the
  variance of the difference.
- Rank: 1 + the number of images with a higher score. Ties count as if all their orders were equally likely: R@K is the share of those
  orders in which the image is among the first K, and the rank is their mean. Constant scores get chance.

R@K has 95 % Wilson intervals; the interval of the median rank is the middle 95 % of `RESAMPLES` bootstrap medians over captions.

torchmetrics' RetrievalHitRate is not used: it breaks ties by position, so constant scores would get 0 or 1 in place of chance, it loops
over captions in Python, and it has no median rank. tests/metrics/test_torchmetrics.py shows that the numbers are equal without ties.

Shapes: N captions, K images of a shortlist, M images, C colours, A side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.measurement import ItemValues, Measurement, proportion
from cap2im.models.interface import LikelihoodModel
from cap2im.models.text import EncodedText, sentences_as_text
from cap2im.randomness import generator, item_noise

RECALLS = (1, 5, 10, 50)
COMPARED_RECALL = 10  # whose values of single captions are kept, to compare models in pairs
RESAMPLES = 1_000
PAIRS_AT_ONCE = 500  # (caption, image) pairs in a batch: wide matrix products that still fit the processor's caches


@torch.inference_mode()
def mean_sentence(
    model: LikelihoodModel,
    captions: Sequence[tuple[Tensor, Tensor]],
    processes: ProcessGroup = ProcessGroup(),  # noqa: B008  # frozen
    advance: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """Return the mean sentence representation [D] of captions, for models that read words.

    Args:
        model: encodes the captions.
        captions: batches of tokens [B, L] and mask [B, L].
        processes: share the batches.
        advance: called after each batch with its number of captions.
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
    """Return bound(x | caption) - bound(x | mean) [N, K], float64, of the images of each caption's shortlist.

    Args:
        model: a conditional likelihood model.
        images: [M, C, A, A] uint8.
        tokens: [N, L] word numbers.
        mask: [N, L] true for words.
        vectors: [N, S] sentence vectors, for models that are conditioned on them.
        mean: [D] mean sentence representation of the training captions.
        shortlists: [N, K] rows of images.
        samples: L posterior samples for each bound.
        seed: of the noise; sample l of an image has the same noise under every caption.
        processes: share the images and the captions.
        advance: called after each pass with its number of bounds; in all `(N K + different images) L`.

    Raises:
        ValueError: a bound is not finite.
    """
    device = model.device

    def bounds(rows: Tensor, text: EncodedText) -> Tensor:
        batch, numbers = images[rows].to(device).float() / 255, rows.tolist()
        total = torch.zeros(len(rows), dtype=torch.float64)
        for sample in range(samples):
            noise = item_noise("retrieval", seed, numbers, sample, model.noise_shape)
            total += model.bound(batch, text, noise.to(device)).value.double().cpu()
            advance(len(rows))
        if not total.isfinite().all():
            raise ValueError(f"image {int(rows[~total.isfinite()][0])}: its bound is not finite")
        return total / samples

    used, place = shortlists.unique(return_inverse=True)  # [images], [N, K]
    shard = processes.shard(len(used))
    average = mean.to(device, next(model.parameters()).dtype)[None]
    parts = [bounds(rows, sentences_as_text(average.expand(len(rows), -1))) for rows in used[shard.start : shard.stop].split(PAIRS_AT_ONCE)]
    under_mean = processes.all_gather(torch.cat(parts))[place]  # [N, K]

    shard, size = processes.shard(len(shortlists)), shortlists.shape[1]
    ratios = []
    for rows in torch.arange(shard.start, shard.stop).split(max(1, PAIRS_AT_ONCE // size)):
        longest = int(mask[rows].sum(dim=1).max())
        batch_vectors = None if vectors is None else vectors[rows].to(device)
        text = model.encode(tokens[rows, :longest].to(device), mask[rows, :longest].to(device), batch_vectors, independent=True)
        assert text is not None
        pairs = torch.arange(len(rows), device=device).repeat_interleave(size)
        ratios.append(bounds(shortlists[rows].flatten(), text[pairs]).view(len(rows), size))
    return processes.all_gather(torch.cat([torch.empty(0, size, dtype=torch.float64), *ratios])) - under_mean


def places(scores: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many images of a shortlist score higher than the caption's image [N], and how many others equal it [N].

    Args:
        scores: [N, K], higher is better.
        own: [N] position of the caption's image in its shortlist.
    """
    score = scores.gather(1, own[:, None])
    return (scores > score).sum(dim=1), (scores == score).sum(dim=1) - 1


def retrieval(scores: Tensor, own: Tensor, seed: int) -> list[Measurement]:
    """Return R@1, R@5, R@10, R@50 (those below K) and the median rank.

    Args:
        scores: [N, K] of `likelihood_ratios`.
        own: [N] position of the caption's image in its shortlist.
        seed: of the bootstrap.
    """
    n, size = scores.shape
    higher, tied = places(scores, own)
    protocol = {"candidates": size}
    recalls = []
    for k in (k for k in RECALLS if k < size):
        hits = ((k - higher) / (tied + 1)).clamp(0, 1)  # share of the orders of the tied images in which it is among the first k
        per_item = ItemValues.of(hits) if k == COMPARED_RECALL else None
        recalls.append(proportion(f"R@{k}", hits.sum().item(), n, chance=k / size, protocol=protocol, per_item=per_item))
    ranks = 1 + higher + tied / 2
    resamples = torch.randint(n, (RESAMPLES, n), generator=generator("bootstrap", seed))
    low, high = ranks[resamples].quantile(0.5, dim=1).quantile(torch.tensor([0.025, 0.975])).tolist()
    median = Measurement(
        name="median rank",
        value=ranks.quantile(0.5).item(),
        n=n,
        interval=(low, high),
        protocol=protocol,
        digits=1,
        chance=(size + 1) / 2,
        higher_is_better=False,
        per_item=ItemValues.of(ranks, "median"),
    )
    return [*recalls, median]
