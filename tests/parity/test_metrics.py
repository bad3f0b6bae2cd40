"""Distances between sets of pictures, and between pictures and captions, against the programs of a fork of AttnGAN."""

from __future__ import annotations

import pytest
import torch

from cap2im.metrics.fid import NeuralDistance, Statistics, frechet_distance, neural_distance, ranking_loss
from tests.parity.golden import golden

FRECHET = {"full_rank": 1e-6, "shifted": 1e-6, "rank_deficient": 1e-5}  # relative, the README's tolerances; "identical" is 0
SIMILARITY = 1e-6


@torch.no_grad()
def test_frechet_distance_and_neural_distance():
    file = golden("metrics", "attngan")
    for case in ("full_rank", "identical", "shifted", "rank_deficient"):
        ours = frechet_distance(*(Statistics.of(file[f"frechet/{case}/acts{n}"]) for n in (1, 2)))
        theirs = file[f"frechet/{case}/value"].item()
        assert ours == pytest.approx(theirs, rel=FRECHET.get(case), abs=1e-9), case

    weights = {name: file[f"vs/w/{name}"] for layer in ("linear_img", "linear_sent") for name in (f"{layer}.weight", f"{layer}.bias")}
    heads = NeuralDistance(image_features=12, sentence_features=10, width=6).double()
    heads.load_state_dict(weights)
    images, sentences = heads(file["vs/in/img_feat"], file["vs/in/sent"])
    told = neural_distance(heads, file["vs/in/img_feat"], file["vs/in/sent"])
    for ours, name in (
        (images, "img_vec"),
        (sentences, "sent_vec"),
        ((images * sentences).sum(dim=1), "similarity"),
        (torch.tensor(told["mean"], dtype=torch.float64), "mean"),
        (torch.tensor(told["deviation"], dtype=torch.float64), "std"),
        (ranking_loss(images, sentences, 0.1), "ranking_loss_margin0.1"),
        (ranking_loss(images, sentences, 0.5), "ranking_loss_margin0.5"),
    ):
        torch.testing.assert_close(ours, file[f"vs/out/{name}"], rtol=SIMILARITY, atol=SIMILARITY, msg=name)
    assert set(file) == file.seen, sorted(set(file) - file.seen)
