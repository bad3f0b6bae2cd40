"""Test that cut-outs are prepared as they are, that nothing is left out in silence, and that prepared folders are checked."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cap2im import cli
from cap2im.data.cutout_folder import list_cutouts
from cap2im.data.cutout_preparation import cut_out, name_things, prepare_cutouts, read_cutouts
from cap2im.data.cutouts import Cutouts
from cap2im.data.cutouts_manifest import ARRAY, MANIFEST, open_array, read_manifest


def sprite(path: Path, box: tuple[int, int, int, int] = (4, 2, 14, 22), colour: tuple[int, int, int] = (0, 200, 0), side: int = 32) -> None:
    """Writes an opaque rectangle on transparent red."""
    image = Image.new("RGBA", (side, side), (255, 0, 0, 0))
    image.paste((*colour, 255), box)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for style in ("pixels", "round"):
        for name in ("red-apple", "mouse", "grapes", "hourglass"):
            sprite(tmp_path / "sprites" / style / f"{name}.png")
    return tmp_path / "sprites"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs `cap2im ARGUMENTS`; answers exit status, standard output, standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cap2im", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return call


def kinds(problems) -> list[tuple[str, str]]:
    return sorted((problem.kind, Path(problem.file.partition(",")[0]).name) for problem in problems)


def test_names_come_from_files_and_styles_from_folders(folder):
    sprite(folder / "Top_Hat.png")
    listed = list_cutouts(folder)
    assert {(file.thing, file.style) for file in listed.files} == {
        (name, style) for name in ("red apple", "mouse", "grapes", "hourglass") for style in ("pixels", "round")
    } | {("top hat", "sprites")}
    assert not listed.problems


def test_cutout_is_cropped_padded_and_clean_at_its_edges(tmp_path):
    sprite(tmp_path / "a.png")
    pixels = cut_out(Image.open(tmp_path / "a.png"), 40)
    assert pixels.shape == (4, 40, 40)
    opaque = pixels[3] > 127
    rows, columns = opaque.nonzero()
    assert (rows.min(), rows.max()) == (0, 39), "the longer side fills the square"
    assert (columns.min(), columns.max()) == (10, 29), "the shorter one is in its middle"
    assert pixels[0][pixels[3] > 8].max() < 20, "the red of transparent pixels does not show"


def test_prepared_folder_holds_everything(folder, tmp_path):
    manifest = prepare_cutouts(folder, tmp_path / "out", side=24, title="my sprites", licence="cc0-1.0")
    cutouts = Cutouts.open(tmp_path / "out")
    assert cutouts.images.shape == (8, 4, 24, 24)
    assert cutouts.things == ("grapes", "hourglass", "mouse", "red apple")
    assert [(noun.one, noun.two) for noun in cutouts.nouns] == [
        ("grapes", ""),
        ("an hourglass", "hourglasses"),
        ("a mouse", "mice"),
        ("a red apple", "red apples"),
    ]
    assert cutouts.styles == ("pixels", "round")
    assert cutouts.thing.bincount().tolist() == [2] * 4
    assert cutouts.about() == {
        "sha256": manifest.content_sha256,
        "source": {"kind": "cutouts", "path": "sprites"},
        "images": 8,
        "title": "my sprites",
        "licence": "cc0-1.0",
    }
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "license: cc0-1.0" in card
    assert "| round | 4 | cc0-1.0 |" in card
    assert not (tmp_path / "out" / "problems.txt").exists()


def test_same_folder_gives_the_same_bytes(folder, tmp_path):
    for out in ("first", "second"):
        prepare_cutouts(folder, tmp_path / out)
    for name in (ARRAY, MANIFEST, "README.md"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_content_digest_covers_pixels_and_names(folder, tmp_path):
    first = prepare_cutouts(folder, tmp_path / "first", title="one")
    assert prepare_cutouts(folder, tmp_path / "title", title="two").content_sha256 == first.content_sha256
    (folder / "round" / "mouse.png").rename(folder / "round" / "mole.png")
    renamed = prepare_cutouts(folder, tmp_path / "renamed")
    sprite(folder / "round" / "mole.png", colour=(1, 2, 3))
    assert len({first.content_sha256, renamed.content_sha256, prepare_cutouts(folder, tmp_path / "pixels").content_sha256}) == 3


def test_every_cutout_that_is_left_out_is_named(folder, tmp_path):
    Image.new("RGB", (32, 32)).save(folder / "round" / "photo.png")
    Image.new("RGBA", (32, 32), (1, 2, 3, 255)).save(folder / "round" / "opaque.png")
    Image.new("RGBA", (32, 32)).save(folder / "round" / "empty.png")
    (folder / "round" / "broken.png").write_bytes(b"no picture")
    (folder / "round" / "drawing.svg").write_text("<svg/>")
    sprite(folder / "round" / "007.png")
    sprite(folder / "round" / "red_apple.png")
    expected = [
        ("duplicate name", "red_apple.png"),
        ("empty cut-out", "empty.png"),
        ("no transparency", "opaque.png"),
        ("no transparency", "photo.png"),
        ("picture format not read", "drawing.svg"),
        ("unnamed cut-out", "007.png"),
        ("unreadable image", "broken.png"),
    ]
    assert kinds(read_cutouts(folder).problems) == expected
    manifest = prepare_cutouts(folder, tmp_path / "out")
    assert len(manifest.thing) == 8
    assert manifest.problems == len((tmp_path / "out" / "problems.txt").read_text("utf-8").splitlines()) == len(expected)


def test_table_names_cutouts(folder):
    rows = [
        "file_name,text,style,licence,plural",
        "round/mouse.png,Computer Mouse,flat,MIT,computer mouses",
        "pixels/mouse.png,Computer  mouse,,,",
        "round/absent.png,absent,,,",
        "round/grapes.png,123,,,",
    ]
    (folder / "cutouts.csv").write_text("\n".join(rows), "utf-8")
    listed = list_cutouts(folder)
    assert [(f.thing, f.style, f.licence, f.plural) for f in listed.files] == [
        ("computer mouse", "pixels", "", ""),
        ("computer mouse", "flat", "MIT", "computer mouses"),
    ]
    assert kinds(listed.problems) == [
        ("caption without image", "cutouts.csv"),
        *(("unnamed cut-out", name) for name in ("grapes.png", "grapes.png", "hourglass.png", "hourglass.png")),
        *(("unnamed cut-out", "red-apple.png"),) * 2,
    ]
    (folder / "metadata.csv").write_text("file_name,text\n", "utf-8")
    with pytest.raises(ValueError, match=r"has cutouts.csv and metadata.csv; keep one"):
        list_cutouts(folder)
    (folder / "metadata.csv").unlink()
    (folder / "cutouts.csv").write_text("picture,label\na.png,b\n", "utf-8")
    with pytest.raises(ValueError, match="no column file_name and text; its columns are label, picture"):
        list_cutouts(folder)
    (folder / "cutouts.csv").write_text("file_name,text\n", "utf-8")
    with pytest.raises(ValueError, match="has no rows; it needs the columns file_name and text, and a row for each picture"):
        list_cutouts(folder)


def test_articles_and_plurals_are_those_of_english():
    names = ["unicorn", "umbrella", "leaf", "bus", "octopus", "dress", "french fries", "glasses", "shaved ice", "fish", "ox"]
    names += ["skis", "tennis", "iris", "face without mouth", "face blowing a kiss", "man in tuxedo", "old building door"]
    things = name_things(names, {"ox": "oxes"})
    assert [(thing.one, thing.two) for thing in things] == [
        ("a unicorn", "unicorns"),
        ("an umbrella", "umbrellas"),
        ("a leaf", "leaves"),
        ("a bus", "buses"),
        ("an octopus", "octopuses"),
        ("a dress", "dresses"),
        ("french fries", ""),
        ("glasses", ""),
        ("shaved ice", ""),
        ("a fish", "fish"),
        ("an ox", "oxes"),
        ("skis", ""),
        ("tennis", ""),
        ("an iris", "irises"),
        ("a face without mouth", "faces without mouth"),
        ("a face blowing a kiss", "faces blowing a kiss"),
        ("a man in tuxedo", "men in tuxedo"),
        ("an old building door", "old building doors"),
    ]


def test_altered_folders_are_refused(folder, tmp_path):
    out = tmp_path / "out"
    prepare_cutouts(folder, out)
    open_array(out, read_manifest(out))
    array = np.load(out / ARRAY)
    np.save(out / ARRAY, array ^ 1)
    with pytest.raises(ValueError, match=r"cutouts.npy: truncated or altered"):
        Cutouts.open(out)
    np.save(out / ARRAY, array[:-1])
    with pytest.raises(ValueError, match=r"manifest.json: cutouts.npy holds uint8 \(7, 4, 48, 48\), the manifest announces"):
        Cutouts.open(out)
    np.save(out / ARRAY, array)
    manifest = json.loads((out / MANIFEST).read_text())
    manifest["thing"][0] = 4
    (out / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="its thing needs 8 numbers below 4"):
        Cutouts.open(out)
    with pytest.raises(ValueError, match="no such folder; cap2im prepare cutouts FOLDER --out OUT makes"):
        Cutouts.open(tmp_path / "absent")


def test_commands_prepare_and_check(run, folder, tmp_path):
    out = str(tmp_path / "out")
    code, said, _ = run("prepare", "cutouts", str(folder), "--out", out, "--side", "16")
    assert code == 0
    assert "8 cut-outs of 4 things in 2 styles" in said
    assert run("check", out)[:2] == (0, f"{out}: prepared cut-outs; fine\n")
    code, said, _ = run("check", "--kind", "cutouts", str(folder))
    assert code == 0
    assert said.rstrip().endswith("4 things; fine")
    Image.new("RGB", (32, 32)).save(folder / "round" / "photo.png")
    code, said, _ = run("check", "--kind", "cutouts", str(folder))
    assert code == 1
    assert "no transparency: 1 (data is lost)" in said
    assert "photo.png" in said
    (folder / "cutouts.csv").write_text("file_name,text,style,licence\nround/mouse.png,mouse,[/b],CC [/x]\n", "utf-8")
    code, said, _ = run("check", str(folder))
    assert "unnamed cut-out: 8 (data is lost)" in said, "cutouts.csv tells the kind"
    assert {"[/b]", "CC [/x]"} <= {cell.strip() for cell in said.replace("│", "┃").split("┃")}


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [(KeyboardInterrupt(), 130, "interrupted"), (OSError(errno.ENOSPC, "no space", "x"), 2, "x: no space")],
)
def test_interrupted_cutouts_are_prepared_again(run, folder, tmp_path, monkeypatch, failure, code, message):
    out = tmp_path / "out"

    def fail(_):
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr("cap2im.data.cutout_preparation._card", fail)
        status, said, err = run("prepare", "cutouts", str(folder), "--out", str(out))
    assert (status, said, err.splitlines()[-1]) == (code, "", f"cap2im: {message}")
    assert [path.name for path in out.iterdir()] == [ARRAY]
    assert run("prepare", "cutouts", str(folder), "--out", str(out))[0] == 0
    open_array(out, read_manifest(out))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fit", "crop", "--validation", "0.1"], "--fit, --validation: cut-outs have no captions, no splits and no shards"),
        (["--out", "sprites"], "sprites: this folder is not empty; choose another"),
    ],
)
def test_commands_refuse_what_does_not_apply(run, folder, monkeypatch, arguments, message):
    monkeypatch.chdir(folder.parent)
    out = [] if "--out" in arguments else ["--out", "new"]
    code, _, err = run("prepare", "cutouts", "sprites", *out, *arguments)
    assert (code, err.strip().splitlines()[-1].endswith(message)) == (2, True), err


def test_scenes_need_two_things(run, tmp_path):
    sprite(tmp_path / "one" / "mouse.png")
    code, _, error = run("prepare", "cutouts", str(tmp_path / "one"), "--out", str(tmp_path / "out"))
    assert code == 2
    assert error.strip().endswith("all cut-outs are of one thing, 'mouse'; scenes need two or more things")
    assert not (tmp_path / "out").exists()
    code, out, _ = run("check", "--kind", "cutouts", str(tmp_path / "one"))
    assert code == 1
    assert out.endswith("1 thing; scenes need two or more\n")


def test_folders_without_cutouts_are_refused(run, tmp_path):
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "photo.png")
    for path, message in ((tmp_path / "empty", "no pictures in this folder"), (tmp_path, "none of its pictures can be used")):
        code, _, err = run("prepare", "cutouts", str(path), "--out", str(tmp_path / "out"))
        assert code == 2
        assert message in err
        assert not (tmp_path / "out").exists()
