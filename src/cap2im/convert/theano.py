"""The parameters of the released Theano programs, by their names there: as views of our models' parameters, and models made of them.

Source: repository mansimov/text2image, files mnist-captions/alignDraw.py, mnist-captions/draw.py, mnist-captions/create-captions.py,
coco/alignDraw.py and coco/sharpen.py. The release keeps one matrix for each input of an LSTM and stores it as (inputs, outputs); we
keep one matrix for all inputs as (outputs, inputs).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from cap2im.models.aligndraw import DRAW, DRAWConfig
from cap2im.models.lapgan import Sharpener, SharpenerConfig

# the words of MNIST with captions, in the order of the release's numbers; its configuration has one row more, which no word has
MNIST_WORDS = (*"0123456789", "the", "digit", "is", "on", "at", "left", "right", "bottom", "top", "of", "image", ".")

GLIMPSES = {"align": 32, "none": 64}  # of the release's configurations; the files do not tell
DRAW_SIDE = 28  # of the plain DRAW program, which has no learned canvas that would tell

# what the programs for MNIST save beside the parameters: the last training batch
BATCH_RECORDS = frozenset({"c_ts", "read_attent_params", "write_attent_params"})

Tensors = Mapping[str, Tensor]
Model = TypeVar("Model", bound=nn.Module)


def released_layout(model: DRAW, tensor: Callable[[Tensor], Tensor] = lambda p: p.data) -> dict[str, Tensor]:
    """Each released parameter as a view, in the released orientation, into the tensor that belongs to our parameter.

    Args:
        model: alignDRAW or DRAW; the other two were never released.
        tensor: which tensor of a parameter to look into: its data (the default), its gradient, an optimizer's state.

    Returns:
        released name -> view. Copying into the views fills the model; the views cover every parameter once.
    """
    c = model.config
    assert c.conditioning in ("align", "none")
    conditional = c.conditioning == "align"
    sentence = c.text_features
    inference, generative, posterior = (
        tensor(m.weight).T for m in (model.inference, model.generative, model.posterior)
    )  # (inputs, outputs) each
    views = {
        "W_hdec_read_attent": tensor(model.read_window.weight).T,
        "b_read_attent": tensor(model.read_window.bias),
        "W_inp_henc": inference[: -c.inference_units],
        "W_henc_henc": inference[-c.inference_units :],
        "b_henc": tensor(model.inference.bias),
        "W_henc_mu": posterior[:, : c.latent],
        "W_henc_logsigma": posterior[:, c.latent :],
        "b_mu": tensor(model.posterior.bias)[: c.latent],
        "b_logsigma": tensor(model.posterior.bias)[c.latent :],
        "W_z_hdec": generative[: c.latent],
        "W_hdec_hdec": generative[c.latent + sentence :],
        "b_hdec": tensor(model.generative.bias),
        "W_hdec_write_attent": tensor(model.write_window.weight).T,
        "b_write_attent": tensor(model.write_window.bias),
        "W_hdec_c": tensor(model.patch.weight).T,
        "b_c": tensor(model.patch.bias),
    }
    if not conditional:
        return views
    language, alignment = model.language, model.alignment
    for suffix, direction in (("", language.forwards), ("Rev", language.backwards)):
        views |= {
            f"W_y{suffix}_hLangEnc{suffix}": tensor(direction.words.weight),
            f"W_hLangEnc{suffix}_hLangEnc{suffix}": tensor(direction.recurrent.weight).T,
            f"b_hLangEnc{suffix}": tensor(direction.recurrent.bias),
        }
    return views | {
        "W_lang_align": tensor(alignment.word.weight).T,
        "b_align": tensor(alignment.word.bias),
        "W_hdec_align": tensor(alignment.state.weight).T,
        "v_align": tensor(alignment.score),
        "W_s_hdec": generative[c.latent : c.latent + sentence],
        "W_hdec_mu_and_logsigma_prior": tensor(model.prior.weight).T,
        "b_mu_and_logsigma_prior": tensor(model.prior.bias),
        "h0_lang": tensor(language.start),
        "h0_enc": tensor(model.start_inference),
        "h0_dec": tensor(model.start_generative),
        "c0": tensor(model.start_canvas).flatten(1),
    }


def released_names(conditioning: Literal["align", "none"]) -> frozenset[str]:
    """The names of all parameters of alignDRAW or of DRAW."""
    units = {"inference_units": 1, "generative_units": 1, "latent": 1, "language_units": 1, "align_features": 1}  # any would do
    return frozenset(released_layout(DRAW(DRAWConfig.model_validate({"conditioning": conditioning, "side": 4, **units}))))


def released_draw(tensors: Tensors, glimpses: int | None = None) -> DRAW:
    """AlignDRAW or DRAW, `variant="released"`, of released parameters.

    Args:
        tensors: all parameters by their released names.
        glimpses: T; None for that of the release's configuration.

    Raises:
        ValueError: shapes that do not belong together.
    """
    config = released_config(tensors, glimpses)
    return _filled(lambda: DRAW(config), released_layout, tensors)


def released_config(tensors: Tensors, glimpses: int | None = None) -> DRAWConfig:
    """The sizes that the shapes of released parameters tell.

    Raises:
        ValueError: shapes that no network has.
    """
    conditioning: Literal["align", "none"] = "align" if "c0" in tensors else "none"
    check_axes(tensors, {"W_hdec_read_attent": 2, "W_henc_henc": 2, "W_z_hdec": 2, "W_hdec_c": 2, "W_inp_henc": 2})
    generative, inputs = tensors["W_hdec_read_attent"].shape[0], tensors["W_inp_henc"].shape[0]
    colours, write_patch = picture_sides("W_hdec_c", tensors["W_hdec_c"].shape[1])
    _, read_patch = picture_sides("W_inp_henc", (inputs - generative) // 2)
    sizes = {
        "conditioning": conditioning,
        "side": DRAW_SIDE,
        "colours": colours,
        "glimpses": GLIMPSES[conditioning] if glimpses is None else glimpses,
        "read_patch": read_patch,
        "write_patch": write_patch,
        "inference_units": tensors["W_henc_henc"].shape[0],
        "generative_units": generative,
        "latent": tensors["W_z_hdec"].shape[0],
        "variant": "released",
    }
    if conditioning == "align":
        check_axes(tensors, {"c0": 2, "W_y_hLangEnc": 2, "W_hLangEnc_hLangEnc": 2, "b_align": 1})
        _, sizes["side"] = picture_sides("c0", tensors["c0"].shape[1])
        sizes["vocabulary_size"] = tensors["W_y_hLangEnc"].shape[0]
        sizes["language_units"] = tensors["W_hLangEnc_hLangEnc"].shape[0]
        sizes["align_features"] = tensors["b_align"].shape[0]
    return DRAWConfig.model_validate(sizes)


def sharpener_layout(model: Sharpener) -> dict[str, Tensor]:
    """Each parameter of the release's sharpening network as a view, in its orientation, into ours.

    The program flips the stored kernels before a convolution that flips them again, so that they act unflipped, as ours do.
    """
    views = {"skipthought2image": model.sentence.weight.data.T, "skipthought2image-bias": model.sentence.bias.data}
    for number, layer in enumerate(model.convolutions):
        assert isinstance(layer, nn.Conv2d)
        assert layer.bias is not None
        views |= {f"W_conv{number}": layer.weight.data, f"b_conv{number}": layer.bias.data}
    return views


def sharpener_names() -> frozenset[str]:
    """The names of all parameters of the sharpening network."""
    return frozenset(sharpener_layout(Sharpener(SharpenerConfig(side=4, sentence_features=1, features=(1, 1)))))


def released_sharpener(tensors: Tensors) -> Sharpener:
    """The sharpening network of released parameters (`gan.hdf5`).

    Raises:
        ValueError: shapes that do not belong together.
    """
    check_axes(tensors, {"skipthought2image": 2, "W_conv0": 4, "W_conv1": 4, "W_conv2": 4})
    sentence, pixels = tensors["skipthought2image"].shape
    config = SharpenerConfig(
        side=_root("skipthought2image", pixels),
        sentence_features=sentence,
        features=(tensors["W_conv0"].shape[0], tensors["W_conv1"].shape[0]),
        kernels=(tensors["W_conv0"].shape[3], tensors["W_conv1"].shape[3], tensors["W_conv2"].shape[3]),
    )
    return _filled(lambda: Sharpener(config), sharpener_layout, tensors)


def _filled(make: Callable[[], Model], layout: Callable[[Model], Mapping[str, Tensor]], tensors: Tensors) -> Model:
    """A model with released parameters, whose shapes are compared before it takes any memory."""
    try:
        with torch.device("meta"):
            shapes = {name: tuple(view.shape) for name, view in layout(make()).items()}
    except RuntimeError as error:
        raise ValueError(f"sizes that no machine can hold: {' '.join(str(error).split())[:200]}") from None
    check_shapes(shapes, tensors)
    model = make()
    fill(layout(model), tensors)
    return model


# What legacy parameters have to be


def check_axes(tensors: Tensors, axes: Mapping[str, int]) -> None:
    """Raises ValueError where a parameter that sizes are read from has another number of axes."""
    wrong = [
        f"{name} has shape {list(tensors[name].shape)}, {count} axes are needed"
        for name, count in axes.items()
        if tensors[name].dim() != count
    ]
    if wrong:
        raise ValueError("; ".join(wrong))


def check_shapes(expected: Mapping[str, tuple[int, ...]], tensors: Tensors) -> None:
    """Raises ValueError where parameters have other shapes than the others make it necessary, or hold numbers that are not finite."""
    wrong = [
        f"{name} has shape {list(tensors[name].shape)}, {list(shape)} is needed beside the others"
        for name, shape in expected.items()
        if tuple(tensors[name].shape) != shape
    ]
    wrong += [f"{name} is not finite" for name in expected if not tensors[name].isfinite().all()]
    if wrong:
        raise ValueError("; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""))


def fill(views: Mapping[str, Tensor], tensors: Tensors) -> None:
    """Copies parameters into a model's views of the same names.

    Raises:
        ValueError: shapes that do not fit.
    """
    check_shapes({name: tuple(view.shape) for name, view in views.items()}, tensors)
    for name, view in views.items():
        view.copy_(tensors[name])


def picture_sides(name: str, count: int) -> tuple[int, int]:
    """Colours and side of the square pictures that have so many numbers; at most one of 1 and 3 colours is possible."""
    for colours in (1, 3):
        if count > 0 and count % colours == 0 and math.isqrt(count // colours) ** 2 == count // colours:
            return colours, math.isqrt(count // colours)
    raise ValueError(f"{name}: {count} numbers are no square picture of 1 or 3 colours")


def _root(name: str, count: int) -> int:
    colours, side = picture_sides(name, count)
    if colours != 1:
        raise ValueError(f"{name}: {count} numbers are no square picture of one colour")
    return side
