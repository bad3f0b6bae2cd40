"""The parameters of the released Theano programs, by their names there, as views of our models' parameters.

Source: repository mansimov/text2image, files mnist-captions/alignDraw.py, coco/alignDraw.py and draw.py. The release keeps one
matrix for each input of an LSTM and stores it as (inputs, outputs); we keep one matrix for all inputs as (outputs, inputs).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from cap2im.models.aligndraw import DRAW


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
