"""Parameters of a PyTorch port of alignDRAW, mapped to those of the released program.

Source: repository vicissitude1999/text2image, files src/aligndraw.py and src/aligndraw_rw_same.py. Differences from the release, and how
they are converted:

* One LSTM reads the caption in both directions: its weights are copied into both.
* Every layer has its own bias: added layers get the sum; a bias on the scores of all words has no effect.
* log sigma^2 comes before log delta in the parameters of a window: the rows are exchanged.
* The initial states and the initial canvas are zeros and not learned.
* The backward states keep their reading order, the grid's offsets follow Python 3's division, and the prior's layer outputs log sigma^2:
  the model's `variant="port"` does the same.

Older versions of the port have other equations under the same names: the sentence vector of the first glimpse at all glimpses, 1e-9
instead of 1e-4, N(0, I) as prior of all glimpses when drawing. Files do not contain the version; the newest is assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from cap2im.convert.parameters import Tensors, check_axes, check_shapes, fill, picture_sides
from cap2im.convert.theano import released_layout
from cap2im.models.aligndraw import DRAW, DRAWConfig

GLIMPSES = 32  # of its configurations
SIDES = {1: 60, 3: 32}  # colours -> side in its configurations; not in the files

Windows = Literal["two windows", "one window"]

# read window, write window, patch
_WINDOWS: dict[Windows, tuple[str, str, str]] = {
    "two windows": ("w_read_attn", "w_write_atten", "w_write"),
    "one window": ("w_dec_attn", "w_dec_attn", "w_dec"),
}
_RAW_ORDER = [0, 1, 3, 2, 4]  # log delta before log sigma^2


def port_shapes(config: DRAWConfig, windows: Windows) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of all parameters."""
    c = config
    language, generative, inference = c.language_units, c.generative_units, c.inference_units
    read_window, write_window, patch = _WINDOWS[windows]
    linear = {
        "w_mu": (c.latent, inference),
        "w_logvar": (c.latent, inference),
        "w_mu_prior": (c.latent, generative),
        "w_logvar_prior": (c.latent, generative),
        "w_lang_align": (c.align_features, 2 * language),
        "w_dec_align": (c.align_features, generative),
        "w_v_align": (1, c.align_features),
        read_window: (5, generative),
        write_window: (5, generative),
        patch: (c.colours * c.write_patch**2, generative),
    }
    lstms = {
        "lang.{}_l0": (c.vocabulary_size, language),
        "encoder.{}": (2 * c.colours * c.read_patch**2 + generative, inference),
        "decoder.{}": (c.latent + 2 * language, generative),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name, (inputs, units) in lstms.items():
        shapes |= {name.format("weight_ih"): (4 * units, inputs), name.format("weight_hh"): (4 * units, units)}
        shapes |= {name.format("bias_ih"): (4 * units,), name.format("bias_hh"): (4 * units,)}
    return shapes


def port_names(windows: Windows) -> frozenset[str]:
    """Return the names of all parameters."""
    return frozenset(port_shapes(DRAWConfig(), windows))


def port_draw(windows: Windows, tensors: Tensors, glimpses: int | None = None) -> DRAW:
    """Return alignDRAW with `variant="port"` from the port's parameters.

    Args:
        windows: whether reading and writing have their own windows; a shared one is copied.
        tensors: all parameters by the names in the port's state dict.
        glimpses: T; None for the value of its configurations.

    Raises:
        ValueError: the shapes do not match.
    """
    matrices = ("lang.weight_ih_l0", "lang.weight_hh_l0", "encoder.weight_hh", "decoder.weight_hh", "w_mu.weight", "w_lang_align.weight")
    check_axes(tensors, {**dict.fromkeys(matrices, 2), "encoder.weight_ih": 2, f"{_WINDOWS[windows][2]}.weight": 2})
    generative = tensors["decoder.weight_hh"].shape[1]
    colours, patch = picture_sides(_WINDOWS[windows][2], tensors[f"{_WINDOWS[windows][2]}.weight"].shape[0])
    config = DRAWConfig(
        side=SIDES[colours],
        colours=colours,
        glimpses=GLIMPSES if glimpses is None else glimpses,
        read_patch=picture_sides("encoder.weight_ih", (tensors["encoder.weight_ih"].shape[1] - generative) // 2)[1],
        write_patch=patch,
        inference_units=tensors["encoder.weight_hh"].shape[1],
        generative_units=generative,
        latent=tensors["w_mu.weight"].shape[0],
        vocabulary_size=tensors["lang.weight_ih_l0"].shape[1],
        language_units=tensors["lang.weight_hh_l0"].shape[1],
        align_features=tensors["w_lang_align.weight"].shape[0],
        variant="port",
    )
    check_shapes(port_shapes(config, windows), tensors)
    model = DRAW(config)
    fill(released_layout(model), _released(tensors, windows, config))
    return model


def _released(tensors: Tensors, windows: Windows, config: DRAWConfig) -> Mapping[str, Tensor]:
    """Return the port's parameters by the released names, in the released orientation (inputs, outputs)."""
    c, p = config, {name: tensor.float() for name, tensor in tensors.items()}
    read_window, write_window, patch = _WINDOWS[windows]
    language = {
        "W_y{0}_hLangEnc{0}": p["lang.weight_ih_l0"].T,
        "W_hLangEnc{0}_hLangEnc{0}": p["lang.weight_hh_l0"].T,
        "b_hLangEnc{0}": p["lang.bias_ih_l0"] + p["lang.bias_hh_l0"],
    }
    return {
        **{name.format(suffix): tensor for suffix in ("", "Rev") for name, tensor in language.items()},
        "W_lang_align": p["w_lang_align.weight"].T,
        "b_align": p["w_lang_align.bias"] + p["w_dec_align.bias"],
        "W_hdec_align": p["w_dec_align.weight"].T,
        "v_align": p["w_v_align.weight"][0],
        "W_z_hdec": p["decoder.weight_ih"][:, : c.latent].T,
        "W_s_hdec": p["decoder.weight_ih"][:, c.latent :].T,
        "W_hdec_hdec": p["decoder.weight_hh"].T,
        "b_hdec": p["decoder.bias_ih"] + p["decoder.bias_hh"],
        "W_inp_henc": p["encoder.weight_ih"].T,
        "W_henc_henc": p["encoder.weight_hh"].T,
        "b_henc": p["encoder.bias_ih"] + p["encoder.bias_hh"],
        "W_henc_mu": p["w_mu.weight"].T,
        "b_mu": p["w_mu.bias"],
        "W_henc_logsigma": p["w_logvar.weight"].T,
        "b_logsigma": p["w_logvar.bias"],
        "W_hdec_mu_and_logsigma_prior": torch.cat([p["w_mu_prior.weight"], p["w_logvar_prior.weight"]]).T,
        "b_mu_and_logsigma_prior": torch.cat([p["w_mu_prior.bias"], p["w_logvar_prior.bias"]]),
        "W_hdec_read_attent": p[f"{read_window}.weight"][_RAW_ORDER].T,
        "b_read_attent": p[f"{read_window}.bias"][_RAW_ORDER],
        "W_hdec_write_attent": p[f"{write_window}.weight"][_RAW_ORDER].T,
        "b_write_attent": p[f"{write_window}.bias"][_RAW_ORDER],
        "W_hdec_c": p[f"{patch}.weight"].T,
        "b_c": p[f"{patch}.bias"],
        "h0_lang": torch.zeros(1, c.language_units),
        "h0_enc": torch.zeros(1, c.inference_units),
        "h0_dec": torch.zeros(1, c.generative_units),
        "c0": torch.zeros(1, c.colours * c.side**2),
    }
