"""`cap2im figures`."""

from __future__ import annotations

from pathlib import Path

from tests.tiny import tiny_model

CAPTION = "the digit three is at the top of the digit one"


def test_figures(run, tmp_path, monkeypatch):
    tiny_model(tmp_path / "one")
    (tmp_path / "flips.txt").write_text("the digit 1 is at the top left of the image\nthe digit 2 is at the top left of the image\n\n")
    code, out, err = run("figures", "one", "--captions", "flips.txt", "--out", "here")
    assert code == 0, err
    names = [Path(line).name for line in out.splitlines()]
    assert names == ["figure-3-caption-flips.png", "figure-5-attended-words.png", "figure-6-seen-and-held-out.png"]
    assert all((tmp_path / "here" / name).is_file() for name in names)
    (tmp_path / "flips.txt").write_text("the digit 1 is at the top left of the image\n \t\nthe digit 2 is at the top left of the image\n")
    code, out, err = run("figures", "one", "--out", "here", "--data", "nowhere")
    assert code == 0
    assert "here: replacing the figures of one" in err
    assert "--data nowhere: ignored, one takes its digits from scikit-learn" in err
    tiny_model(tmp_path / "two")
    code, out, err = run("figures", "two", "--captions", "flips.txt", "--out", "here")
    assert (code, "here: holds figures of another model; writing to here-two" in err) == (0, True)
    assert all(line.startswith("here-two/") for line in out.splitlines())
    asked = []
    monkeypatch.setattr("cap2im.evaluation.figures.write_figures", lambda *arguments, **_: asked.append(arguments[2]) or [])
    assert run("figures", "one", "--captions", "flips.txt")[0] == 0
    assert [len(group) for group in asked[0].flips] == [1, 1], "a line of blanks is an empty one"
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert run("figures", "one", "--captions", "latin.txt")[2].startswith("cap2im: latin.txt: line 1 is not UTF-8")
    for data in ('["the digit three", "the digit four"]', "a.jpg#0\tthe digit three", "a.jpg,the digit three", "<html>"):
        (tmp_path / "data.txt").write_text(f"the digit one\n{data}\n")
        code, _, err = run("draw", "--captions", "data.txt")
        assert (code, err.startswith("cap2im: data.txt, line 2: expected one caption a line, and it ")) == (2, True)
    (tmp_path / "empty.txt").write_text("\n\n")
    code, _, err = run("figures", "one", "--captions", "empty.txt")
    assert (code, err) == (2, "cap2im: empty.txt: no captions in it\n")


def test_captions_left_out_are_named_within_one_short_line(run, tmp_path, monkeypatch):
    """The words of the model occur in none of the paper's captions."""
    tiny_model(tmp_path / "own")
    monkeypatch.setattr("cap2im.evaluation.figure_captions.model_held_out", lambda pipeline: None)  # so it is no model of digits
    monkeypatch.setattr("cap2im.evaluation.figures.check_figures", lambda *_: None)
    monkeypatch.setattr("cap2im.evaluation.figures.write_figures", lambda *_, **__: [])
    code, _, err = run("figures", "own", "--out", "here")
    assert code == 0, err
    (line,) = err.splitlines()
    assert line.startswith("left out 20 captions with words that own does not know: a stop sign is flying in blue skies . (a, stop, sign,")
    assert len(line) < 600
