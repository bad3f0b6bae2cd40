"""Inception-v3 in the image encoder against the authors' own program, with 22 million weights made by the golden vectors' recipe."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cap2im.convert.attngan import image_encoder_layout
from cap2im.models.attngan_text import TextEncoderConfig
from cap2im.models.damsm import DAMSMConfig, InceptionEncoder
from cap2im.models.inception import resize
from tests.parity.attngan import Near, attngan
from tests.parity.golden import Golden, groups

CASES = groups("image_encoder", "out/")  # "align_corners_False" and "align_corners_True"


def recipe_seed(keys: list[str], shapes: list[str], sums: torch.Tensor) -> int:
    """The seed of this set's first weight, which the files do not name: the one of the first 100,000 that gives the stored sum."""
    index = next(index for index, key in enumerate(keys) if key.endswith(".bn.bias"))
    size, stored = int(shapes[index]), float(sums[index])
    for seed in range(100_000):
        value = 0.1 * np.random.RandomState(seed + index).standard_normal(size)
        if abs(value.astype(np.float32).astype(np.float64).sum() - stored) < 1e-9:
            return seed
    raise AssertionError(f"no seed gives {keys[index]} the sum {stored}")


def recipe_weights(keys: list[str], shapes: list[str], seed: int) -> dict[str, torch.Tensor]:
    """The weights that the README's section 6 describes, by the release's names."""
    weights = {}
    for index, (key, sizes) in enumerate(zip(keys, shapes, strict=True)):
        shape = tuple(int(n) for n in sizes.split("x")) if sizes not in ("", "scalar") else ()
        random = np.random.RandomState(seed + index)
        if key.endswith("num_batches_tracked"):
            weights[key] = torch.zeros((), dtype=torch.long)
            continue
        if key in ("emb_features.weight", "emb_cnn_code.weight"):
            value = random.uniform(-0.1, 0.1, shape)
        elif key == "emb_cnn_code.bias":
            value = 0.01 * random.standard_normal(shape)
        elif key.endswith(".bn.weight"):
            value = 1 + 0.1 * random.standard_normal(shape)
        elif key.endswith((".bn.bias", ".bn.running_mean")):
            value = 0.1 * random.standard_normal(shape)
        elif key.endswith(".bn.running_var"):
            value = 1 + 0.2 * random.uniform(0, 1, shape)
        else:
            assert key.endswith(".conv.weight"), key
            value = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        weights[key] = torch.from_numpy(value.astype(np.float32))
    return weights


def golden_weights(file: Golden) -> dict[str, torch.Tensor]:
    """The image encoder's weights by the release's names, whose sums are the stored ones."""
    keys, shapes, sums = file.arrays["weights/keys"].tolist(), file.arrays["weights/shape"].tolist(), file["weights/sum_float64"]
    weights = recipe_weights(keys, shapes, recipe_seed(keys, shapes, sums))
    torch.testing.assert_close(torch.stack([weights[key].double().sum() for key in keys]), sums, rtol=1e-12, atol=1e-9)
    return weights


@pytest.fixture(scope="module")
def image_encoder() -> tuple[Golden, dict[str, torch.Tensor]]:
    """The golden file, and the weights that its README describes."""
    file = attngan("image_encoder")
    return file, golden_weights(file)


def golden_encoder(weights: dict[str, torch.Tensor], *, corners: bool, mode: str) -> InceptionEncoder:
    """Our image encoder with the golden weights, in the release's mode."""
    text = TextEncoderConfig(features=len(weights["emb_cnn_code.bias"]))
    config = DAMSMConfig(text=text, variant="released", corners=corners)
    model = InceptionEncoder(config)
    layout = image_encoder_layout(model)
    assert layout.keys() == weights.keys()
    for name, view in layout.items():
        view.copy_(weights[name])
    return model.train(mode == "train")


def test_trained_parameters(image_encoder):
    file, weights = image_encoder
    model = golden_encoder(weights, corners=False, mode="train")
    parameters = zip(image_encoder_layout(model), model.parameters(), strict=False)  # buffers follow, of which none learns
    assert {name for name, parameter in parameters if parameter.requires_grad} == set(file.arrays["trainable"].tolist())


@torch.no_grad()
def test_features_of_the_forks_fid(image_encoder):
    """Its network sees images in 0..1 as if they were normalised for ImageNet; `fid_features` are the means of two depths."""
    file, weights = image_encoder
    check = Near(file)
    images = resize(file["in/img_u8"].float() / 255, corners=True)
    scale, shift = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.229, 0.224, 0.225), (0.485, 0.456, 0.406)))
    network = golden_encoder(weights, corners=True, mode="eval").network
    found = network(images * (scale / 0.5) + (shift - 0.5) / 0.5)
    for features in (found.regions.mean(dim=(2, 3)), found.pooled):
        check(f"fid_features/dims{features.shape[1]}", features.double(), 1e-5)
    check.finish("fid_features/")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", ["eval", "train"])
@torch.no_grad()
def test_regions_and_code(image_encoder, case, mode):
    file, weights = image_encoder
    check = Near(file)
    model = golden_encoder(weights, corners=case.endswith("True"), mode=mode)
    found = model(file["in/img_u8"].float() / 127.5 - 1)
    where = f"out/{case}/{mode}/"
    check(f"{where}features", found.regions.double(), {"eval": 5e-5, "train": 2e-2}[mode])
    check(f"{where}cnn_code", found.code.double(), {"eval": 2e-5, "train": 5e-3}[mode])
    for name in [key for key in file if key.startswith(f"{where}state_after/")]:
        check(name, image_encoder_layout(model)[name.rpartition("/")[2]].double(), 1e-4)
    check.finish(where)


def test_nothing_of_the_file_is_left_out(image_encoder):
    file, _ = image_encoder
    assert {name.partition("/")[0] for name in file} == {"in", "out", "fid_features", "weights", "trainable"}
    cases = {"/".join(name.split("/")[1:3]) for name in file if name.startswith("out/")}
    assert cases == {f"align_corners_{corners}/{mode}" for corners in (False, True) for mode in ("eval", "train")}
