"""The text encoder against the authors' own program, number by number."""

from __future__ import annotations

import pytest

from tests.parity.attngan import Near, attngan, golden_text_encoder, text_gradients, text_mask


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_words_sentence_and_gradients(cell):
    file = attngan("text_encoder")
    check = Near(file)
    encoder = golden_text_encoder(file, cell)
    mask = text_mask(file["in/cap_lens"])  # [B, L]
    text = encoder(file["in/captions"][:, : mask.shape[1]], mask)
    check(f"{cell}/out/words_emb", text.words.transpose(1, 2), 1e-6)
    check(f"{cell}/out/sent_emb", text.sentence, 1e-6)
    words, sentence = file[f"{cell}/in/cot_words"], file[f"{cell}/in/cot_sent"]
    ((text.words.transpose(1, 2) * words).sum() + (text.sentence * sentence).sum()).backward()
    for name, gradient in text_gradients(encoder).items():
        check(f"{cell}/grad/{name}", gradient, 1e-5)
    check.finish("in/", f"{cell}/")


def test_nothing_of_the_file_is_left_out():
    assert {name.partition("/")[0] for name in attngan("text_encoder")} == {"in", "lstm", "gru"}
