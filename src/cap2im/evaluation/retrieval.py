"""Image retrieval of a model on captioned images: shortlists from a network or a file, and the mean training caption.

Shapes: N captions, K images of a shortlist, M images, C colours, A side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cap2im.checkpoint import WEIGHTS, read_config
from cap2im.convert.pickles import read_pickle
from cap2im.data.batch import pad
from cap2im.data.captioned_images import CaptionedImages
from cap2im.data.sentence_vectors import load_sentence_vectors
from cap2im.evaluation.captions import CaptionInputs
from cap2im.evaluation.inputs import with_protocol
from cap2im.files import file_sha256
from cap2im.loading import find_model, load_model
from cap2im.metrics import retrieval as metric
from cap2im.metrics import shortlists
from cap2im.metrics.measurement import Measurement
from cap2im.models.interface import LikelihoodModel
from cap2im.models.vgg import VGG

CAPTIONS_AT_ONCE = 500
VECTORS_AT_ONCE = 1_000


@dataclass(frozen=True)
class Shortlists:
    """Images that captions rank.

    Attributes:
        rows: [N, K] rows of images.
        pixels: [M, C, A, A] uint8 of all images.
        source: entry of protocols: the network or file that the shortlists come from.
    """

    rows: Tensor
    pixels: Tensor
    source: dict[str, str]


def retrieval(inputs: CaptionInputs) -> list[Measurement]:
    """Measure how captions rank their images among those of their shortlists."""
    model, settings, sample = inputs.pipeline.model, inputs.settings, inputs.main
    assert isinstance(model, LikelihoodModel)
    assert sample is not None
    lists = read_or_make_shortlists(inputs)
    mean, training_captions = mean_sentence(inputs, model)
    pairs = (lists.rows.numel() + len(lists.rows.unique())) * settings.retrieval_samples
    scores = metric.likelihood_ratios(
        model,
        lists.pixels,
        sample.batch.tokens,
        sample.batch.mask,
        sample.batch.vectors,
        mean,
        lists.rows,
        samples=settings.retrieval_samples,
        seed=settings.seed,
        processes=inputs.processes,
        advance=inputs.bar("ranking the images of shortlists", pairs),
    )
    own = (lists.rows == sample.image_of[:, None]).int().argmax(dim=1)
    protocol = {"shortlist": lists.source, "training_captions": training_captions, "samples": settings.retrieval_samples}
    return with_protocol(metric.retrieval(scores, own, settings.seed), inputs.about | sample.protocol | protocol)


def read_or_make_shortlists(inputs: CaptionInputs) -> Shortlists:
    """Return the shortlists of the main sample's captions, from a file or made by a network.

    Raises:
        ValueError: the images are not on this machine, or the file or the network is missing, damaged or does not fit.
    """
    settings, sample, colours = inputs.settings, inputs.main, inputs.pipeline.model.config.colours
    assert sample is not None
    assert settings.shortlist_model is not None  # retrieval names it as a need
    if sample.whole is None:
        raise ValueError(f"{inputs.dataset.folder}: is not on this machine, and retrieval needs all of its {sample.split} images at once")
    whole, name = sample.whole, settings.shortlist_model
    if (path := Path(name)).is_file():
        if settings.candidates is not None:
            raise ValueError(f"--candidates {settings.candidates}: the shortlists of {name} have a fixed length")
        rows = read_shortlists(path, sample.rows, sample.image_of, len(whole), len(whole.captions))
        return Shortlists(rows, whole.all_pixels(colours), {"file": path.name, "sha256": file_sha256(path)})
    size = shortlists.CANDIDATES if settings.candidates is None else settings.candidates
    extractor = load_model(name, VGG)
    vgg: VGG = extractor.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    shortlists.require_candidates(size, len(whole))
    pixels = whole.all_pixels(colours)
    features = shortlists.image_features(vgg, pixels, inputs.processes, inputs.bar("making shortlists", len(pixels)))
    source = {"extractor": extractor.name, "sha256": extractor.sha256}
    return Shortlists(shortlists.nearest_shortlists(features, sample.image_of, size), pixels, source)


def shortlist_sha256(name: str) -> str:
    """Return the SHA-256 of the file, or of the network's weights, that shortlists come from; errors are those of `find_model`."""
    return file_sha256(path) if (path := Path(name)).is_file() else str(read_config(find_model(name)).get("sha256", {}).get(WEIGHTS))


def mean_sentence(inputs: CaptionInputs, model: LikelihoodModel) -> tuple[Tensor, int]:
    """Return the mean sentence representation [D] of the training captions, and their number."""
    pipeline, processes, training = inputs.pipeline, inputs.processes, CaptionedImages(inputs.dataset, "train")
    if pipeline.encoder is not None:
        with processes.main_process_first():
            vectors = load_sentence_vectors(inputs.dataset, "train", training.captions, pipeline.encoder)
        parts = (vectors[start : start + VECTORS_AT_ONCE] for start in range(0, len(vectors), VECTORS_AT_ONCE))
        sums = sum(torch.from_numpy(part.astype("float64")).sum(dim=0) for part in parts)
        return torch.as_tensor(sums) / len(vectors), len(vectors)
    numbers = sorted(filter(None, map(pipeline.vocabulary.numbered, training.captions)), key=len)  # those without a known word do not count
    steps = range(0, len(numbers), CAPTIONS_AT_ONCE)
    batches = [pad(numbers[start : start + CAPTIONS_AT_ONCE]) for start in steps]
    return metric.mean_sentence(model, batches, processes, inputs.bar("encoding the training captions", len(numbers))), len(numbers)


def read_shortlists(path: Path, captions: Tensor, image_of: Tensor, images: int, all_captions: int) -> Tensor:
    """Read the shortlists [N, K] of captions from a pickle such as the authors' `test-nns.pkl`, without executing it.

    The authors' file is no longer available, and its layout was never described. The assumed layout is an array, or a list of lists of one
    length, of image numbers that count from 0 in the order of the dataset: a list for each image, or for each caption. If no list contains
    its own image, it is put in front.

    Args:
        path: of the pickle.
        captions: [N] rows of the captions.
        image_of: [N] rows of their images.
        images: number of images in the split.
        all_captions: number of captions in the split.

    Raises:
        ValueError: the layout is another one, an image number is out of range or repeated in a list, or only some lists contain their own
            image.
    """
    table = read_pickle(path)
    rows = table if isinstance(table, (list, tuple, np.ndarray)) else []
    try:
        lists = np.stack([np.asarray(row) for row in rows])
    except (TypeError, ValueError):  # also if there are no rows
        raise ValueError(f"{path}: not a list of lists of image numbers, all of one length") from None
    if lists.ndim != 2 or lists.dtype.kind not in "iu" or lists.shape[1] < 2:
        raise ValueError(f"{path}: {lists.dtype} of shape {list(lists.shape)}; expected whole numbers [lists, 2 or more]")
    if len(lists) not in (images, all_captions):
        raise ValueError(f"{path}: {len(lists):,} lists; expected one for each of {images:,} images or {all_captions:,} captions")
    if lists.min() < 0 or lists.max() >= images:
        raise ValueError(f"{path}: image numbers from {lists.min()} to {lists.max()}; expected 0 to {images - 1}")
    chosen = torch.from_numpy(lists.astype(np.int64))[image_of if len(lists) == images else captions]
    has_own = (chosen == image_of[:, None]).any(dim=1)
    if not has_own.any():
        chosen = torch.cat([image_of[:, None], chosen], dim=1)
    elif not has_own.all():
        raise ValueError(f"{path}: the list of caption {int(captions[~has_own][0])} lacks its own image, and other lists contain theirs")
    ordered = chosen.sort(dim=1).values
    if bool((twice := (ordered[:, 1:] == ordered[:, :-1]).any(dim=1)).any()):
        raise ValueError(f"{path}: the list of caption {int(captions[twice][0])} names an image twice")
    return chosen
