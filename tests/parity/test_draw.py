"""DRAW, alignDRAW and the filter banks against the authors' own programs, in float64, number by number."""

from __future__ import annotations

import pytest
import torch

from cap2im.convert.theano import released_layout
from cap2im.models.aligndraw import StepContext
from cap2im.models.filterbank import filter_bank
from cap2im.training.optimizers import RMSprop, clip_tensors
from tests.parity.golden import (
    FORWARD,
    GRADIENT,
    SCALAR,
    UPDATE,
    VARIANTS,
    Golden,
    distance,
    file_names,
    golden,
    golden_model,
    groups,
    pixels,
    variants,
)

MODELS = [name for letter in "ABCD" for name in file_names(f"{letter}_*")]
BANKS = "F_filterbank"


def cases(names: list[str]) -> list[tuple[str, str]]:
    return [(name, variant) for name in names for variant in variants(name)]


class Comparison:
    """Collects relative errors, so that a failure shows all of them."""

    def __init__(self, file: Golden, variant: str) -> None:
        self.file, self.variant, self.wrong = file, variant, {}

    def __contains__(self, key: str) -> bool:
        return f"{self.variant}/{key}" in self.file

    def __call__(self, key: str, ours: torch.Tensor, tolerance: float | None = None) -> None:
        name = f"{self.variant}/{key}"
        error = distance(ours.detach(), self.file[name])
        if not error <= (self.file.forward_tolerance(name) if tolerance is None else tolerance):
            self.wrong[key] = error

    def finish(self, *prefixes: str) -> None:
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
    images, text, noise, _ = inputs(file, model)

    bound = model.bound(images, text, noise)
    check("out/logpxz", bound.reconstruction.mean(), SCALAR)
    check("out/kl_final", bound.kl.sum(1).mean(), SCALAR)
    check("out/log_likelihood", -bound.value.mean(), SCALAR)
    check("out/kl_t", 2 * bound.kl.sum(0).cumsum(0), FORWARD)
    (-bound.value.mean()).backward()
    for key, gradient in released_layout(model, lambda p: p.grad).items():
        if f"grad/{key}" in check:
            check(f"grad/{key}", gradient, GRADIENT)
        else:  # the large file stores their norms
            check(f"gradnorm/{key}", gradient.norm(), GRADIENT)

    with torch.no_grad():
        state, inference = model.initial_generative_state(len(images)), model.initial_inference_state(len(images))
        context = StepContext(model, text)
        steps = {key: [] for key in ("c_ts", "read_attent_params", "write_attent_params", "h_dec", "cell_dec", "h_enc", "cell_enc")}
        for eps in noise.unbind(1):
            posterior, inference, read_window = model.infer(images, state, inference, context)
            state, glimpse = model.generate(posterior.sample(eps), state, context)
            step = (pixels(state.canvas), read_window, glimpse.write_window, state.hidden, state.cell, inference.hidden, inference.cell)
            for values, value in zip(steps.values(), step, strict=True):
                values.append(value)
        for key, values in steps.items():
            if f"out/{key}" in check:
                check(f"out/{key}", torch.stack(values))
        if text is not None:
            check("out/h_lang", text.words.transpose(0, 1))
            prior = model.latent_prior(torch.stack(steps["h_dec"]))
            check("out/mu_prior", prior.mean)
            check("out/logsigma_prior", prior.log_sigma)
        if "out/c_final" in check:
            check("out/c_final", pixels(state.canvas))
    check.finish("out/", "grad/", "gradnorm/")


@pytest.mark.parametrize(("name", "variant"), cases(MODELS))
@torch.no_grad()
def test_generation_pass(name, variant):
    file = golden(name)
    model = golden_model(file, variant)
    check = Comparison(file, variant)
    _, text, _, noise = inputs(file, model)
    steps = list(model.sample_steps(text, noise))
    hidden = torch.stack([state.hidden for state, _ in steps])
    check("gen/c_ts_gener", torch.stack([pixels(state.canvas) for state, _ in steps]))
    check("gen/write_attent_params", torch.stack([glimpse.write_window for _, glimpse in steps]))
    check("gen/h_dec", hidden)
    if "gen/cell_dec" in check:
        check("gen/cell_dec", torch.stack([state.cell for state, _ in steps]))
    if text is not None:
        prior = model.latent_prior(hidden)
        check("gen/alphas", torch.stack([glimpse.words for _, glimpse in steps]))
        check("gen/mu_prior", prior.mean)
        check("gen/logsigma_prior", prior.log_sigma)
    if "gen/c_final_gener" in check:
        check("gen/c_final_gener", pixels(steps[-1][0].canvas))
    check.finish("gen/")
    assert torch.equal(model.sample(text, noise).canvases[:, -1], steps[-1][0].canvas)


@pytest.mark.parametrize(("name", "variant"), cases(file_names("E_*")))
def test_updates(name, variant):
    file = golden(name)
    model = golden_model(file, variant)
    check = Comparison(file, variant)
    c, noise = model.config, file["in/eps_train"]  # [updates, T, B, Z]
    images = file["in/x_train"].view(len(noise), -1, c.colours, c.side, c.side)
    captions = file["in/y_train"].view(len(noise), images.shape[1], -1)
    optimizer = RMSprop(model.parameters(), lr=0.001)
    for update, (batch, tokens, eps) in enumerate(zip(images, captions, noise, strict=True), start=1):
        bound = model(batch, tokens, torch.ones_like(tokens, dtype=torch.bool), eps.transpose(0, 1))
        check(f"update{update}/kl_final", bound.kl.sum(1).mean(), UPDATE)
        check(f"update{update}/logpxz", bound.reconstruction.mean(), UPDATE)
        check(f"update{update}/log_likelihood", -bound.value.mean(), UPDATE)
        optimizer.zero_grad()
        (-bound.value.mean()).backward()
        clip_tensors(released_layout(model, lambda p: p.grad).values(), 10.0)
        optimizer.step()
        for key, value in released_layout(model).items():
            check(f"update{update}/param/{key}", value, UPDATE)
        for key, value in released_layout(model, lambda p: optimizer.state[p]["square_average"]).items():
            check(f"update{update}/rms/{key}", value, UPDATE)
    check.finish("update")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [group for group in groups(BANKS, kind="draw") if group.startswith("N")] or ["N"])
def test_filter_bank(size, variant):
    file = golden(BANKS)
    check = Comparison(file, f"{size}/{variant}")
    side, patch = file.meta["A"], int(size.removeprefix("N"))
    bank = filter_bank(file[f"{size}/in/params"], patch, side, VARIANTS[variant])
    images = file[f"{size}/in/images"].view(-1, 1, side, side)
    windows = file[f"{size}/in/windows"].view(-1, 1, patch, patch)
    check("g_x", bank.centre[:, 0])
    check("g_y", bank.centre[:, 1])
    check("delta", bank.stride)
    check("sigma", bank.sigma)
    check("gamma", bank.gamma[:, :, 0])
    check("F_x", bank.columns)
    check("F_y", bank.rows)
    check("read", bank.read(images).flatten(1))
    check("write", bank.write(windows).flatten(1))
    check.finish("")


def test_all_sizes_of_filter_banks_are_compared():
    file = golden(BANKS)
    assert {name.partition("/")[0] for name in file} == {f"N{patch}" for patch in file.meta["Ns"]}
