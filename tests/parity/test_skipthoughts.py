"""uni-skip, bi-skip and combine-skip against the authors' own program."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cap2im.data.batch import pad
from tests.parity.golden import FORWARD, Golden, golden
from tests.released_skipthoughts import golden_skipthoughts

FLOAT32 = 2e-5  # the README's tolerance


@pytest.fixture(scope="module")
def file() -> Golden:
    return golden("H_skipthoughts")


def encode(file: Golden, dtype: torch.dtype, *, normalise: bool, eos: bool) -> torch.Tensor:
    """The golden sentences, all in one batch although their lengths differ."""
    model, words = golden_skipthoughts(file)
    sentences = [[words.get(word, words["UNK"]) for word in str(s).split()] + eos * [words["<eos>"]] for s in file.arrays["sentences"]]
    assert len({len(sentence) for sentence in sentences}) > 1
    tokens, mask = pad(sentences)
    return model.to(dtype)(tokens, mask, normalise=normalise)


@pytest.mark.parametrize("eos", [False, True])
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, FORWARD), (torch.float32, FLOAT32)])
@torch.no_grad()
def test_vectors(file, dtype, tolerance, normalise, eos):
    ours = encode(file, dtype, normalise=normalise, eos=eos)
    key = f"{'norm' if normalise else 'nonorm'}_{'eos' if eos else 'noeos'}"
    theirs = torch.from_numpy(file.arrays[f"released/{str(dtype).removeprefix('torch.')}/{key}"])
    assert ours.dtype == theirs.dtype == dtype
    assert ours.shape == theirs.shape == (len(file.arrays["sentences"]), file.meta["dim_uni"] + 2 * file.meta["dim_bi"])
    assert float((ours - theirs).norm() / theirs.norm()) <= tolerance
    if normalise:
        np.testing.assert_allclose(ours.norm(dim=1), 2**0.5, rtol=1e-5)


def test_every_golden_output_is_compared(file):
    outputs = {name for name in file if name.startswith("released/")}
    assert outputs == {f"released/{d}/{n}_{e}" for d in ("float32", "float64") for n in ("norm", "nonorm") for e in ("eos", "noeos")}
