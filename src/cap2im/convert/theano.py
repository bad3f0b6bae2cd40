"""Parameters of the released Theano programs: views into our models by their released names, and models built from them.

Source: repository mansimov/text2image, files mnist-captions/alignDraw.py, mnist-captions/draw.py, mnist-captions/create-captions.py,
coco/alignDraw.py and coco/sharpen.py. The release keeps one matrix per input of an LSTM, stored as (inputs, outputs);
our models keep one matrix for all inputs, stored as (outputs, inputs).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from cap2im.convert.parameters import Tensors, build_model, check_axes, picture_sides
from cap2im.models.aligndraw import DRAW, DRAWConfig
from cap2im.models.lapgan import Sharpener, SharpenerConfig

# words of MNIST with captions in the release's order; its configuration has one more row, without a word
MNIST_WORDS = (*"0123456789", "the", "digit", "is", "on", "at", "left", "right", "bottom", "top", "of", "image", ".")

GLIMPSES = {"align": 32, "none": 64}  # of the release's configurations; not in the files
DRAW_SIDE = 28  # of the DRAW program, which has no learned canvas to infer it from

# saved beside the parameters by the programs for MNIST: the last training batch
BATCH_RECORDS = frozenset({"c_ts", "read_attent_params", "write_attent_params"})


def released_layout(model: DRAW, tensor: Callable[[Tensor], Tensor] = lambda p: p.data) -> dict[str, Tensor]:
    """Return views, in the released orientation, into the tensors of our parameters.

    Args:
        model: alignDRAW or DRAW; the others were not released.
        tensor: returns the tensor of a parameter to view: its data (the default), its gradient, an optimizer's state.

    Returns:
        Released name -> view. The views cover every parameter once; copying into them fills the model.
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
    """Return the names of all parameters of alignDRAW or of DRAW."""
    units = {"inference_units": 1, "generative_units": 1, "latent": 1, "language_units": 1, "align_features": 1}  # any sizes
    return frozenset(released_layout(DRAW(DRAWConfig.model_validate({"conditioning": conditioning, "side": 4, **units}))))


def released_draw(tensors: Tensors, glimpses: int | None = None) -> DRAW:
    """Return alignDRAW or DRAW with `variant="released"` from released parameters.

    Args:
        tensors: all parameters by their released names; `BATCH_RECORDS` are ignored.
        glimpses: T; None for the value of the release's configuration.

    Raises:
        ValueError: parameters are missing, or their shapes do not match.
    """
    config = released_config(tensors, glimpses)
    parameters = {name: tensor for name, tensor in tensors.items() if name not in BATCH_RECORDS}
    return build_model(lambda: DRAW(config), released_layout, parameters)


def released_config(tensors: Tensors, glimpses: int | None = None) -> DRAWConfig:
    """Infer the configuration from the shapes of released parameters.

    Raises:
        ValueError: parameters are missing, or have impossible shapes.
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
    """Return views, in the released orientation, into the parameters of the sharpening network.

    The program flips the stored kernels before a convolution that flips them again, so the stored kernels equal ours.
    """
    views = {"skipthought2image": model.sentence.weight.data.T, "skipthought2image-bias": model.sentence.bias.data}
    for number, layer in enumerate(model.convolutions):
        assert isinstance(layer, nn.Conv2d)
        assert layer.bias is not None
        views |= {f"W_conv{number}": layer.weight.data, f"b_conv{number}": layer.bias.data}
    return views


def sharpener_names() -> frozenset[str]:
    """Return the names of all parameters of the sharpening network."""
    return frozenset(sharpener_layout(Sharpener(SharpenerConfig(side=4, sentence_features=1, features=(1, 1)))))


def released_sharpener(tensors: Tensors) -> Sharpener:
    """Return the sharpening network from released parameters (`gan.hdf5`).

    Raises:
        ValueError: parameters are missing, or their shapes do not match.
    """
    check_axes(tensors, {"skipthought2image": 2, "W_conv0": 4, "W_conv1": 4, "W_conv2": 4})
    sentence, pixels = tensors["skipthought2image"].shape
    config = SharpenerConfig(
        side=_root("skipthought2image", pixels),
        sentence_features=sentence,
        features=(tensors["W_conv0"].shape[0], tensors["W_conv1"].shape[0]),
        kernels=(tensors["W_conv0"].shape[3], tensors["W_conv1"].shape[3], tensors["W_conv2"].shape[3]),
    )
    return build_model(lambda: Sharpener(config), sharpener_layout, tensors)


def _root(name: str, count: int) -> int:
    colours, side = picture_sides(name, count)
    if colours != 1:
        raise ValueError(f"{name}: {count} numbers are not a square picture of one colour")
    return side
