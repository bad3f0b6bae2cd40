"""Pictures of all captions of a dataset, and samples of pairs: whole, resumed, shared; of real images too."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cap2im import generation
from cap2im.checkpoint import write_model
from cap2im.config import parse_recipe
from cap2im.data.captioned_images import CaptionedImages
from cap2im.data.dataset import PreparedDataset
from cap2im.data.vocabulary import Vocabulary
from cap2im.files import safe_file_name
from cap2im.generated_pairs import Pair, all_pairs, choose, read_pairs, sample_pairs
from cap2im.generation import generate
from cap2im.metrics.distributed import ProcessGroup
from cap2im.pipeline import Pipeline
from cap2im.training.data import DataSource, load_training_data
from tests.kills import kills, run_child
from tests.prepared import prepared_dataset
from tests.processes import in_two_processes
from tests.stages import staged_pipeline
from tests.tiny import tiny_trainer

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> PreparedDataset:
    return PreparedDataset.open(prepared_dataset(tmp_path_factory.mktemp("squares") / "prepared", side=12))


@pytest.fixture(scope="module")
def pipeline(dataset) -> Pipeline:
    return dataclasses.replace(staged_pipeline(), vocabulary=dataset.vocabulary)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_caption_has_pictures_with_their_own_seeds(pipeline, dataset, tmp_path):
    pairs = generate(pipeline, dataset, tmp_path / "out", per_caption=2, seed=5)
    images = CaptionedImages(dataset, "validation")
    assert len(pairs) == 2 * len(images.captions) == 24
    assert [(p.image, p.number, p.sample) for p in pairs[:5]] == [
        ("validation-0", 1, 1),
        ("validation-0", 1, 2),
        ("validation-0", 2, 1),
        ("validation-0", 2, 2),
        ("validation-1", 1, 1),
    ]
    assert [p.caption for p in pairs[::2]] == images.captions
    assert len({p.seed for p in pairs}) == 24
    assert read_pairs(tmp_path / "out") == pairs
    assert {path.name for path in (tmp_path / "out" / "generated").iterdir()} == {p.file for p in pairs}
    assert pairs[1].file == "validation-0-c1-s2.png"
    for pair in pairs:
        drawn = pipeline.draw(pair.caption, seed=pair.seed)[0].canvases[-1]
        np.testing.assert_array_equal(pixels(tmp_path / "out" / "generated" / pair.file), drawn)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    told = {"split": "validation", "per_caption": 2, "seed": 5, "side": 8, "images": 6, "pictures": 24, "captions_left_out": 0}
    assert manifest.items() >= told.items()
    assert manifest["dataset"]["sha256"] == dataset.sha256
    assert {p.seed for p in all_pairs(pipeline, images, 2, 6)[0]}.isdisjoint(p.seed for p in pairs)


def test_one_colour_and_real_images_at_the_model_s_side(pipeline, dataset, tmp_path):
    grey = dataclasses.replace(staged_pipeline(colours=1), vocabulary=dataset.vocabulary)
    for model, shape in ((pipeline, (8, 8, 3)), (grey, (8, 8))):
        out = tmp_path / str(len(shape))
        pairs = generate(model, dataset, out, real=True)
        images = CaptionedImages(dataset, "validation")
        assert pixels(out / "generated" / pairs[0].file).shape == shape
        assert sorted(path.name for path in (out / "real").iterdir()) == [f"validation-{i}.png" for i in range(6)]
        for row in range(6):
            real = images.pixels([row], 3 if len(shape) == 3 else 1, 8)[0].permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(pixels(out / "real" / f"validation-{row}.png").reshape(real.shape), real)


def test_resume_draws_only_missing_pictures(pipeline, dataset, tmp_path, monkeypatch):
    out, whole = tmp_path / "out", tmp_path / "whole"
    generate(pipeline, dataset, whole, real=True)
    written = []
    write = generation._write_picture

    def interrupted(path, picture):
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, picture)

    monkeypatch.setattr(generation, "_write_picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(pipeline, dataset, out, real=True)
    assert len(list((out / "generated").iterdir())) == 5
    with pytest.raises(ValueError, match=r"this folder is not empty; --resume draws the missing pictures$"):
        generate(pipeline, dataset, out, real=True)
    again = []
    monkeypatch.setattr(generation, "_write_picture", lambda path, picture: (again.append(path.name), write(path, picture)))
    generate(pipeline, dataset, out, real=True, resume=True)
    assert not set(again) & set(written)
    assert files(out) == files(whole)
    again.clear()
    generate(pipeline, dataset, out, real=True, resume=True)
    assert again == []


def test_other_settings_are_not_resumed(pipeline, dataset, tmp_path):
    generate(pipeline, dataset, tmp_path / "out")
    with pytest.raises(ValueError, match=r"was started with other settings: seed: 0 -> 1; draw into another folder$"):
        generate(pipeline, dataset, tmp_path / "out", seed=1, resume=True)
    with pytest.raises(ValueError, match=r"was started with other settings: per_caption: 1 -> 2; pictures: 12 -> 24"):
        generate(pipeline, dataset, tmp_path / "out", per_caption=2, resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"this folder is not empty; choose another$"):
        generate(pipeline, dataset, tmp_path / "other", resume=True)
    (tmp_path / "out" / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json: Invalid JSON.*; draw into another folder$"):
        generate(pipeline, dataset, tmp_path / "out", resume=True)


def test_several_processes_draw_the_same_pictures(pipeline, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(ProcessGroup, "all_gather", lambda self, part: part)  # one after another here, so that none waits
    generate(pipeline, dataset, tmp_path / "one", real=True)
    drawn = []
    write = generation._write_picture
    monkeypatch.setattr(generation, "_write_picture", lambda path, picture: (drawn.append(path), write(path, picture)))
    for index in range(3):
        generate(pipeline, dataset, tmp_path / "three", real=True, processes=ProcessGroup(index, 3))
        assert Counter(path.parent.name for path in drawn) == {"generated": 4 * (index + 1), "real": 2 * (index + 1)}
    assert files(tmp_path / "one") == files(tmp_path / "three")


def test_captions_that_the_model_cannot_read_are_left_out(dataset, tmp_path):
    few = Vocabulary(words=("<end>", "red", "blue"), tokens="attngan")
    pipeline = dataclasses.replace(staged_pipeline(), vocabulary=few)
    pairs = generate(pipeline, dataset, tmp_path / "out")
    assert {("red" in p.caption) or ("blue" in p.caption) for p in pairs} == {True}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["captions_left_out"], manifest["pictures"], manifest["unknown_words"]) == (12 - len(pairs), len(pairs), "skip")
    blind = dataclasses.replace(pipeline, vocabulary=Vocabulary(words=("<end>", "zebra"), tokens="attngan"))
    with pytest.raises(ValueError, match=r"prepared, validation: stages knows none of its captions' words$"):
        generate(blind, dataset, tmp_path / "blind")
    assert not (tmp_path / "blind").exists()


def test_equal_file_names_are_refused(pipeline, dataset, monkeypatch):
    images = CaptionedImages(dataset, "validation")
    images.ids = ["a/b", "a-b", "c", "d", "e", "f"]
    with pytest.raises(ValueError, match=r"prepared, validation: 2 images would be called a-b$"):
        all_pairs(pipeline, images, 1, 0)


def made_up(images: int, per_image: int) -> list[Pair]:
    return [Pair(f"{i}-{n}.png", f"{i:03d}", n, 1, 7 * i + n, "a caption") for i in range(images) for n in range(1, per_image + 1)]


def test_a_sample_is_without_replacement_and_uniform():
    pairs = made_up(40, 5)
    one = choose(pairs, 10, 0)
    assert len({p.image for p in one}) == 10
    assert one == choose(pairs, 10, 0) != choose(pairs, 10, 1)
    assert one == sorted(one, key=pairs.index)
    assert set(one) < set(choose(pairs, 25, 0)) < set(choose(pairs, 40, 0))
    drawn = [p for seed in range(200) for p in choose(pairs, 10, seed)]
    of_images, of_numbers = Counter(p.image for p in drawn), Counter(p.number for p in drawn)
    assert len(of_images) == 40
    assert all(25 <= count <= 80 for count in of_images.values())  # 50 are expected of each, with a deviation of 6
    assert all(330 <= count <= 470 for count in of_numbers.values())  # 400
    with pytest.raises(ValueError, match=r"a sample of 41 images was asked for, and there are 40$"):
        choose(pairs, 41, 0)


def test_sampled_pairs_equal_generated_samples(pipeline, dataset, tmp_path):
    generate(pipeline, dataset, tmp_path / "whole", real=True)
    chosen = sample_pairs(tmp_path / "whole", 4, tmp_path / "taken", seed=0)
    drawn = generate(pipeline, dataset, tmp_path / "drawn", real=True, sample=4)
    assert chosen == drawn == read_pairs(tmp_path / "taken")
    taken = tmp_path / "taken"
    assert {p.name for p in (taken / "real").iterdir()} == {p.name for p in (taken / "generated").iterdir()} == {p.file for p in chosen}
    assert len(list((tmp_path / "drawn" / "real").iterdir())) == len(list((tmp_path / "drawn" / "generated").iterdir())) == 4
    for pair in chosen:
        assert (taken / "generated" / pair.file).read_bytes() == (tmp_path / "drawn" / "generated" / pair.file).read_bytes()
        assert (taken / "real" / pair.file).read_bytes() == (tmp_path / "whole" / "real" / f"{pair.image}.png").read_bytes()


def test_truncated_pairs_are_refused(pipeline, dataset, tmp_path):
    generate(pipeline, dataset, tmp_path / "whole", real=True)
    pairs = tmp_path / "whole" / "pairs.jsonl"
    pairs.write_text("".join(pairs.read_text().splitlines(keepends=True)[:4]))
    with pytest.raises(ValueError, match=r"pairs\.jsonl: has 4 pictures; .*manifest\.json says 12; cap2im generate --resume"):
        sample_pairs(tmp_path / "whole", 2, tmp_path / "taken")


def line_of(**changes: object) -> str:
    return json.dumps({"file": "a-c1-s1.png", "image": "a", "number": 1, "sample": 1, "seed": 0, "caption": "red \u2028 bus"} | changes)


def test_a_line_separator_in_a_caption_is_kept(tmp_path):
    (tmp_path / "pairs.jsonl").write_text(f"{line_of()}\n".replace("\\u2028", "\u2028"), encoding="utf-8")
    assert [pair.caption for pair in read_pairs(tmp_path)] == ["red \u2028 bus"]


def test_a_kill_at_any_operation_is_resumed_to_equal_bytes(pipeline, dataset, tmp_path):
    def draw(out: Path, resume: bool = False) -> None:
        generate(pipeline, dataset, out, sample=2, real=True, resume=resume)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    draw(whole)  # here, not in a child: the first run of a process makes more operations, and all children are forked from this one
    for kill_at in kills(run_child(lambda: draw(tmp_path / "counted"))):
        run_child(lambda: draw(killed), kill_at)
        draw(killed, resume=True)
        assert files(killed) == files(whole), f"killed at {kill_at}"
        shutil.rmtree(killed)


def test_a_kill_at_any_operation_leaves_no_partial_sample(pipeline, dataset, tmp_path):
    generate(pipeline, dataset, tmp_path / "pictures", real=True)
    whole, taken = tmp_path / "whole", tmp_path / "taken"
    for kill_at in kills(run_child(lambda: sample_pairs(tmp_path / "pictures", 2, whole))):
        run_child(lambda: sample_pairs(tmp_path / "pictures", 2, taken), kill_at)
        if not taken.exists():
            sample_pairs(tmp_path / "pictures", 2, taken)
        assert files(taken) == files(whole), f"killed at {kill_at}"
        shutil.rmtree(taken)


@pytest.mark.parametrize(
    ("id", "name"),
    [
        ("a/b:c", "a-b-c"),
        ("con.1", "_con.1"),
        ("\0\ud800", "--"),
        ("e" * 180, "e" * 180),
        ("é" * 300, "é" * 85 + "-" + hashlib.sha256(("é" * 300).encode()).hexdigest()[:8]),
    ],
    ids=["separators", "reserved", "NUL and surrogate", "longest", "too long"],
)
def test_file_names_are_portable(id, name):
    assert safe_file_name(id) == name


def test_missing_files_of_a_sample_are_named(pipeline, dataset, tmp_path):
    pairs = generate(pipeline, dataset, tmp_path / "out")
    with pytest.raises(ValueError, match=r"real: 6 of 6 files of the sample are missing, e\.g\. validation-0\.png; .* with --real"):
        sample_pairs(tmp_path / "out", 6, tmp_path / "taken")
    assert not (tmp_path / "taken").exists()
    for pair in pairs:
        (tmp_path / "out" / "generated" / pair.file).unlink()
    with pytest.raises(ValueError, match=r"generated: 6 of 6 files of the sample are missing, e\.g\. .*; cap2im generate --resume draws"):
        sample_pairs(tmp_path / "out", 6, tmp_path / "taken")
    with pytest.raises(ValueError, match=r"this folder is not empty; choose another"):
        sample_pairs(tmp_path / "out", 6, tmp_path / "out")
    for line, message in (
        ('{"file": 1}', r"file: Input should be a valid string, got 1; image: Field required"),
        ("[" * 10_000, "Invalid JSON: recursion limit"),
        (line_of(file="../../etc/passwd"), "file: must be a file name without folders"),
        (line_of(image=".."), "image: must be a file name without folders"),
        (line_of(seed=-1), "seed: Input should be greater than or equal to 0"),
        (line_of(more=1), "more: Extra inputs are not permitted"),
    ):
        (tmp_path / "out" / "pairs.jsonl").write_text(f"{line_of()}\n{line}\n")
        with pytest.raises(ValueError, match=rf"pairs\.jsonl: line 2: {message}"):
            sample_pairs(tmp_path / "out", 6, tmp_path / "taken")
    with pytest.raises(ValueError, match=r"has no pairs\.jsonl; cap2im generate MODEL --data DIR --real --out DIR makes it"):
        sample_pairs(tmp_path, 6, tmp_path / "taken")


@pytest.fixture(scope="module")
def model(dataset, tmp_path_factory) -> Path:
    """A VAE that was not trained."""
    sizes = {"conditioning": "mean", "side": 12, "colours": 3, "latent": 3, "hidden": 8, "language_units": 4}
    table = {"kind": "vae", "description": "-", "data": {"source": "captions"}, "model": sizes, "train": {"batch_size": 4}}
    recipe = parse_recipe(table, "here")
    trainer = tiny_trainer(recipe, load_training_data(recipe, DataSource(dataset.folder)))
    folder = tmp_path_factory.mktemp("models") / "squares"
    folder.mkdir()
    write_model(folder, trainer.model.state_dict(), trainer.config())
    return folder


@pytest.mark.usefixtures("bf16")
def test_the_commands(run, model, dataset, tmp_path):
    code, out, err = run("generate", str(model), "--data", dataset.folder, "--real", "--out", "all")
    assert (code, out.splitlines()[-1]) == (0, "12 pictures of 6 images: written to all"), err
    code, out, _ = run("generate", str(model), "--data", dataset.folder, "--real", "--out", "all", "--resume")
    assert code == 0
    code, out, _ = run("sample", "all", "--count", "3", "--out", "some")
    assert (code, out) == (0, "3 pairs: written to some\n")
    assert len(files(tmp_path / "some")) == 7
    for arguments, told in (
        (["generate", str(model), "--data", dataset.folder, "--out", "all"], "cap2im: all: this folder is not empty; --resume draws"),
        (
            ["generate", str(model), "--data", dataset.folder, "--real", "--out", "all", "--resume", "--precision", "bf16"],
            "cap2im: all: was started with other settings: precision: 'fp32' -> 'bf16'",
        ),
        (["generate", str(model), "--data", dataset.folder, "--sample", "7", "-o", "b"], "cap2im: a sample of 7 images was asked for, and"),
        (["generate", str(model), "--data", "nowhere", "-o", "b"], "cap2im: nowhere: no such folder; a prepared dataset is needed"),
        (["generate", str(model), "--data", dataset.folder, "--per-caption", "0"], "cap2im: Invalid value for '--per-caption'"),
        (["sample", "all", "--count", "7", "--out", "c"], "cap2im: a sample of 7 images was asked for, and there are 6"),
        (["sample", "some", "--count", "2", "--out", "all"], "cap2im: all: this folder is not empty"),
    ):
        code, _, err = run(*arguments)
        assert (code, told in err, "Traceback" in err) == (2, True, False), err


@pytest.mark.slow
def test_two_real_processes_share_the_captions(model, dataset, tmp_path):
    out = tmp_path / "generated"
    in_two_processes("-m", "cap2im", "generate", str(model), "--data", str(dataset.folder), "--real", "--out", str(out))
    generate(Pipeline.load(str(model)), dataset, tmp_path / "one", real=True)
    two, one = files(out), files(tmp_path / "one")
    assert two.keys() == one.keys()
    for name in one:  # a product of another size may round the last bit differently, which can move a pixel's level by one
        if name.endswith(".png"):
            away = pixels(out / name).astype(int) - pixels(tmp_path / "one" / name)
            assert np.abs(away).max() <= 1
