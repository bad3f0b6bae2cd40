"""DRAW, alignDRAW and the filter banks against the authors' own programs, in float64, number by number."""

from __future__ import annotations

import pytest
import torch

from cap2im.convert.theano import released_layout
from cap2im.models.aligndraw import StepContext
from cap2im.models.filterbank import filter_bank
from cap2im.training.optimizers import RMSprop, clip_blocks
from tests.parity.golden import FORWARD, GRADIENT, SCALAR, UPDATE, VARIANTS, Golden, distance, golden, golden_model, pixels

MODELS = ["A_mnist_n4", "A_mnist_n5", "B_coco_n4", "B_coco_n5", "C_mnist_full", "D_draw_n5"]


def cases(files: list[str]) -> list[tuple[str, str]]:
    both = ("released", "paper")
    return [(name, v) for name in files for v in (*both, *(["paper_px1"] if name in {"A_mnist_n4", "B_coco_n5", "D_draw_n5"} else []))]


class Comparison:
    """Collects relative errors, so that a failure shows all of them."""

    def __init__(self, file: Golden, variant: str) -> None:
        self.file, self.variant, self.wrong = file, variant, {}

    def __call__(self, key: str, ours: torch.Tensor, tolerance: float) -> None:
        error = distance(ours.detach(), self.file[f"{self.variant}/{key}"])
        if not error <= tolerance:
            self.wrong[key] = error

    def finish(self, prefixes: tuple[str, ...]) -> None:
        """Nothing was off, and every golden array under the prefixes was compared."""
        assert not self.wrong
        expected = {n for n in self.file if n.startswith(tuple(f"{self.variant}/{p}" for p in prefixes))}
        assert expected, "no golden array to compare with"
        assert expected <= self.file.seen, sorted(expected - self.file.seen)


def inputs(file: Golden, model):
    c = model.config
    images = file["in/x"].view(-1, c.colours, c.side, c.side)
    text = None
    if c.conditioning != "none":
        tokens = file["in/y"]
        text = model.encode(tokens, torch.ones_like(tokens, dtype=torch.bool))
    return images, text, file["in/eps"].transpose(0, 1), file["in/eps_gener"].transpose(0, 1)


@pytest.mark.parametrize(("name", "variant"), cases(MODELS))
def test_posterior_pass(name, variant):
    file = golden(name)
    model = golden_model(file, variant)
    check = Comparison(file, variant)
    float32 = 1e-7 if name == "C_mnist_full" else FORWARD  # the large file stores its biggest arrays as float32
    images, text, noise, _ = inputs(file, model)

    bound = model.bound(images, text, noise)
    check("out/logpxz", bound.reconstruction.mean(), SCALAR)
    check("out/kl_final", bound.kl.sum(1).mean(), SCALAR)
    check("out/log_likelihood", -bound.value.mean(), SCALAR)
    check("out/kl_t", 2 * bound.kl.sum(0).cumsum(0), FORWARD)
    (-bound.value.mean()).backward()
    for key, gradient in released_layout(model, lambda p: p.grad).items():
        if name == "C_mnist_full":
            check(f"gradnorm/{key}", gradient.norm(), GRADIENT)
        else:
            check(f"grad/{key}", gradient, GRADIENT)

    with torch.no_grad():
        state, inference = model.initial_generative_state(len(images)), model.initial_inference_state(len(images))
        layers = StepContext(model, text)
        steps = {key: [] for key in ("c_ts", "read_attent_params", "write_attent_params", "h_dec", "cell_dec", "h_enc", "cell_enc")}
        for eps in noise.unbind(1):
            posterior, inference, read_window = model.infer(images, state, inference, layers)
            state, glimpse = model.generate(posterior.sample(eps), state, layers)
            found = (pixels(state.canvas), read_window, glimpse.write_window, state.hidden, state.cell, inference.hidden, inference.cell)
            for values, value in zip(steps.values(), found, strict=True):
                values.append(value)
        for key, values in steps.items():
            if f"{variant}/out/{key}" in file:
                check(f"out/{key}", torch.stack(values), float32 if key == "c_ts" else FORWARD)
        if text is not None:
            check("out/h_lang", text.words.transpose(0, 1), FORWARD)
            prior = model.latent_prior(torch.stack(steps["h_dec"]))
            check("out/mu_prior", prior.mean, FORWARD)
            check("out/logsigma_prior", prior.log_sigma, FORWARD)
        if name == "C_mnist_full":
            check("out/c_final", pixels(state.canvas), FORWARD)
    check.finish(("out/", "grad/", "gradnorm/"))


@pytest.mark.parametrize(("name", "variant"), cases(MODELS))
@torch.no_grad()
def test_generation_pass(name, variant):
    file = golden(name)
    model = golden_model(file, variant)
    check = Comparison(file, variant)
    _, text, _, noise = inputs(file, model)
    steps = list(model.sample_steps(text, noise))
    hidden = torch.stack([state.hidden for state, _ in steps])
    check("gen/c_ts_gener", torch.stack([pixels(state.canvas) for state, _ in steps]), 1e-7 if name == "C_mnist_full" else FORWARD)
    check("gen/write_attent_params", torch.stack([glimpse.write_window for _, glimpse in steps]), FORWARD)
    check("gen/h_dec", hidden, FORWARD)
    if f"{variant}/gen/cell_dec" in file:
        check("gen/cell_dec", torch.stack([state.cell for state, _ in steps]), FORWARD)
    if text is not None:
        prior = model.latent_prior(hidden)
        check("gen/alphas", torch.stack([glimpse.words for _, glimpse in steps]), FORWARD)
        check("gen/mu_prior", prior.mean, FORWARD)
        check("gen/logsigma_prior", prior.log_sigma, FORWARD)
    if name == "C_mnist_full":
        check("gen/c_final_gener", pixels(steps[-1][0].canvas), FORWARD)
    check.finish(("gen/",))
    assert torch.equal(model.sample(text, noise).canvases[:, -1], steps[-1][0].canvas)


@pytest.mark.parametrize(("name", "variant"), cases(["E_train_n4", "E_train_n5"]))
def test_three_updates(name, variant):
    file = golden(name)
    model = golden_model(file, variant)
    check = Comparison(file, variant)
    optimizer = RMSprop(model.parameters(), lr=0.001)
    for update in (1, 2, 3):
        rows = slice(3 * (update - 1), 3 * update)
        side = model.config.side
        images = file["in/x_train"][rows].view(3, 1, side, side)
        tokens = file["in/y_train"][rows]
        bound = model(images, tokens, torch.ones_like(tokens, dtype=torch.bool), file["in/eps_train"][update - 1].transpose(0, 1))
        check(f"update{update}/kl_final", bound.kl.sum(1).mean(), UPDATE)
        check(f"update{update}/logpxz", bound.reconstruction.mean(), UPDATE)
        check(f"update{update}/log_likelihood", -bound.value.mean(), UPDATE)
        optimizer.zero_grad()
        (-bound.value.mean()).backward()
        clip_blocks(released_layout(model, lambda p: p.grad).values(), 10.0)
        optimizer.step()
        for key, value in released_layout(model).items():
            check(f"update{update}/param/{key}", value, UPDATE)
        for key, value in released_layout(model, lambda p: optimizer.state[p]["square_average"]).items():
            check(f"update{update}/rms/{key}", value, UPDATE)
    check.finish(("update",))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("patch", [4, 5, 8, 9])
def test_filter_bank(patch, variant):
    file = golden("F_filterbank")
    check = Comparison(file, f"N{patch}/{variant}")
    side = file.meta["A"]
    bank = filter_bank(file[f"N{patch}/in/params"], patch, side, VARIANTS[variant])
    images = file[f"N{patch}/in/images"].view(-1, 1, side, side)
    windows = file[f"N{patch}/in/windows"].view(-1, 1, patch, patch)
    check("g_x", bank.centre[:, 0], FORWARD)
    check("g_y", bank.centre[:, 1], FORWARD)
    check("delta", bank.stride, FORWARD)
    check("sigma", bank.sigma, FORWARD)
    check("gamma", bank.gamma[:, :, 0], FORWARD)
    check("F_x", bank.columns, FORWARD)
    check("F_y", bank.rows, FORWARD)
    check("read", bank.read(images).flatten(1), FORWARD)
    check("write", bank.write(windows).flatten(1), FORWARD)
    check.finish(("",))
