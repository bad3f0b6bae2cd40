"""Attention over regions, the matching losses and a step of the matching model against the authors' own program, number by number."""

from __future__ import annotations

import pytest
import torch

from cap2im.models.damsm import Gammas, matching_losses, region_attention, sentence_scores, word_scores
from tests.parity.attngan import GAMMAS, Near, attngan, golden_text_encoder, text_gradients, text_mask
from tests.parity.golden import groups

WORD_LOSSES = [case for case in groups("losses", "words_loss/") if case not in GAMMAS]  # a set of gammas, and the kind of classes
SENTENCE_LOSSES = groups("losses", "sent_loss/")


def leaves(*tensors):
    return [tensor.clone().requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("case", groups("attention", "func_attention/"))
def test_attention_over_regions(case):
    file = attngan("attention")
    check, where = Near(file), f"func_attention/{case}/"
    query, context = leaves(file["in/query"], file["in/context"])
    words = query.transpose(1, 2)  # [B, L, E]
    contexts, weights = region_attention(context, words, torch.ones(words.shape[:2], dtype=torch.bool), float(case.removeprefix("gamma")))
    check(f"{where}weightedContext", contexts.transpose(1, 2), 5e-6)
    check(f"{where}attn", weights, 2e-6)
    ((contexts.transpose(1, 2) * file["in/cot_fctx"]).sum() + (weights * file["in/cot_fattn"]).sum()).backward()
    check(f"{where}grad_query", query.grad, 1e-5)
    check(f"{where}grad_context", context.grad, 1e-5)
    check.finish(where, "in/cot_f")


@pytest.mark.parametrize("case", WORD_LOSSES)
def test_word_losses(case):
    file = attngan("losses")
    check = Near(file)
    gammas, _, classes = case.partition("_")
    regions, words = leaves(file["in/img_features"], file["in/words_emb"])
    mask = text_mask(file["in/cap_lens"])
    scores = word_scores(regions, words.transpose(1, 2), mask, GAMMAS[gammas])
    case = f"words_loss/{case}/"
    losses = matching_losses(scores, None if classes == "none" else file[f"in/class_ids_{classes}"])
    for number, loss in enumerate(losses):
        check(f"{case}w_loss{number}", loss, 5e-5)
    sum(losses).backward()
    check(f"{case}grad_img_features", regions.grad, 5e-6)
    check(f"{case}grad_words_emb", words.grad, 2e-5)
    check.finish(case)


@pytest.mark.parametrize("gammas", GAMMAS)
def test_attention_maps(gammas):
    file = attngan("losses")
    check = Near(file)
    mask = text_mask(file["in/cap_lens"])
    _, weights = region_attention(file["in/img_features"], file["in/words_emb"].transpose(1, 2), mask, GAMMAS[gammas].gamma1)
    for caption, length in enumerate(file["in/cap_lens"].tolist()):
        check(f"words_loss/{gammas}/att_map{caption}", weights[caption : caption + 1, :length], 5e-7)
    check.finish(f"words_loss/{gammas}/")


@pytest.mark.parametrize("case", SENTENCE_LOSSES)
def test_sentence_losses(case):
    file = attngan("losses")
    check = Near(file)
    gammas, _, classes = case.partition("_")
    codes, sentences = leaves(file["in/cnn_code"], file["in/sent_emb"])
    case = f"sent_loss/{case}/"
    scores = sentence_scores(codes, sentences, GAMMAS[gammas])
    losses = matching_losses(scores, None if classes == "none" else file[f"in/class_ids_{classes}"])
    for number, loss in enumerate(losses):
        check(f"{case}s_loss{number}", loss, 5e-6)
    sum(losses).backward()
    check(f"{case}grad_cnn_code", codes.grad, 5e-6)
    check(f"{case}grad_sent_emb", sentences.grad, 5e-6)
    check.finish(case)


def test_one_step_of_the_matching_model():
    file = attngan("damsm_step")
    check = Near(file)
    encoder = golden_text_encoder(attngan("text_encoder")).train()
    regions, codes = leaves(file["in/words_features"], file["in/sent_code"])
    tokens = file["in/captions"]
    text = encoder(tokens, text_mask(file["in/cap_lens"], longest=tokens.shape[1]))
    check("out/words_emb", text.words.transpose(1, 2), 1e-6)
    check("out/sent_emb", text.sentence, 1e-6)
    losses = [
        *matching_losses(word_scores(regions, text.words, text.mask, Gammas()), file["in/class_ids"]),
        *matching_losses(sentence_scores(codes, text.sentence, Gammas()), file["in/class_ids"]),
    ]
    for name, loss in zip(("w_loss0", "w_loss1", "s_loss0", "s_loss1"), losses, strict=True):
        check(f"out/{name}", loss, 5e-5)
    check("out/loss", sum(losses), 5e-5)
    sum(losses).backward()
    check("out/grad_words_features", regions.grad, 2e-6)
    check("out/grad_sent_code", codes.grad, 2e-6)
    for name, gradient in text_gradients(encoder).items():
        check(f"out/grad/{name}", gradient, 1e-4)
    check("out/rnn_grad_norm", torch.nn.utils.clip_grad_norm_(encoder.parameters(), 0.25), 1e-4)
    for name, gradient in text_gradients(encoder).items():
        check(f"out/grad_clipped/{name}", gradient, 5e-7)
    check.finish("in/", "out/")


def test_nothing_of_the_files_is_left_out():
    """Of the losses' file, those of the discriminators and generators are compared where they are tested."""
    assert {name.partition("/")[0] for name in attngan("damsm_step")} == {"in", "out"}
    of_words = {f"{gammas}_{classes}" for gammas in GAMMAS for classes in ("none", "unique", "collide")}
    assert of_words == set(WORD_LOSSES)
    assert {case for case in of_words if case.startswith("default")} == set(SENTENCE_LOSSES)
