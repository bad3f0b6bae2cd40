"""Distances between sets of pictures, and between pictures and captions, against the programs of a fork of AttnGAN."""

from __future__ import annotations

import pytest
import torch

from cap2im.metrics.fid import Statistics, frechet_distance
from cap2im.metrics.neural_distance import NeuralDistance, neural_distance, ranking_loss
from tests.parity.golden import golden, groups

FRECHET = {"full_rank": 1e-6, "shifted": 1e-6, "rank_deficient": 1e-5}  # relative, the README's tolerances; "identical" is 0
SIMILARITY = 1e-6


@torch.no_grad()
@pytest.mark.parametrize("case", groups("metrics", "frechet/"))
def test_frechet_distance(case):
    file = golden("metrics", "attngan")
    ours = frechet_distance(*(Statistics.of(file[f"frechet/{case}/acts{n}"]) for n in (1, 2)))
    assert ours == pytest.approx(file[f"frechet/{case}/value"].item(), rel=FRECHET.get(case), abs=1e-9)


@torch.no_grad()
def test_neural_distance():
    file = golden("metrics", "attngan")
    weights, theirs = file.under("vs/w/"), file.under("vs/out/")
    (width, image_features), sentence_features = weights["linear_img.weight"].shape, weights["linear_sent.weight"].shape[1]
    heads = NeuralDistance(image_features=image_features, sentence_features=sentence_features, width=width).double()
    heads.load_state_dict(weights)
    images, sentences = heads(file["vs/in/img_feat"], file["vs/in/sent"])
    cosine, _ = neural_distance(heads, file["vs/in/img_feat"], file["vs/in/sent"])
    margins = [name.removeprefix("ranking_loss_margin") for name in theirs if name.startswith("ranking_loss_margin")]
    ours = {
        "img_vec": images,
        "sent_vec": sentences,
        "similarity": (images * sentences).sum(dim=1),
        "mean": torch.tensor(cosine.value, dtype=torch.float64),
        "std": torch.tensor(cosine.deviation, dtype=torch.float64),
    } | {f"ranking_loss_margin{margin}": ranking_loss(images, sentences, float(margin)) for margin in margins}
    assert margins
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=SIMILARITY, atol=SIMILARITY, msg=name)


def test_no_array_is_left_out():
    assert {"/".join(name.split("/")[:2]) for name in golden("metrics", "attngan") if not name.startswith("frechet/")} == {
        "vs/w",
        "vs/in",
        "vs/out",
    }
    assert {name.rpartition("/")[2] for name in golden("metrics", "attngan") if name.startswith("frechet/")} == {"acts1", "acts2", "value"}
