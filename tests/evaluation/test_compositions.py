"""Compositional accuracy of models of captioned scenes: which captions are drawn, how they are scored, and real scenes beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cap2im.checkpoint import write_model
from cap2im.config import load_recipe
from cap2im.data.cutouts import Cutouts
from cap2im.data.scenes import BACKGROUND_NAMES, HeldOutScenes
from cap2im.evaluation import compositions
from cap2im.evaluation.compositions import CompositionInputs
from cap2im.evaluation.evaluate import evaluate
from cap2im.evaluation.evaluation import Evaluation
from cap2im.evaluation.generated import score_drawings
from cap2im.evaluation.inputs import no_progress
from cap2im.evaluation.registry import METRICS
from cap2im.evaluation.settings import Settings
from cap2im.metrics.compositional_accuracy import Readings
from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.measurement import Measurement
from cap2im.models.composition_reader import CompositionReader, CompositionReaderConfig
from cap2im.pipeline import Pipeline
from cap2im.training.accelerator import make_accelerator
from cap2im.training.data import DataSource, load_training_data
from cap2im.training.variational import VariationalTrainer
from tests.squares import NAMES, square_cutouts
from tests.tiny import CHANGES

STYLES = ("flat", "round", "soft")
SIZES = [change for change in CHANGES if change.startswith("model.")]
OWN = ["data.things=[]", "data.reading_style='soft'", "data.samples_per_epoch=20", "data.validation_samples=6", "train.batch_size=4"]
COUNTS = {"seen": 12, "held out": 18, "held-out pairs": 6, "held-out triples": 6, "held-out words": 6}


@pytest.fixture(autouse=True)
def _cutouts(monkeypatch):
    monkeypatch.setattr(Cutouts, "open", lambda folder: square_cutouts(styles=STYLES))


def write_reader(folder: Path, things: tuple[str, ...] = NAMES) -> str:
    """Write an untrained reader."""
    torch.manual_seed(0)
    reader = CompositionReader(CompositionReaderConfig(things=things, backgrounds=BACKGROUND_NAMES, channels=2))
    folder.mkdir()
    write_model(folder, reader.state_dict(), {"kind": "composition-reader", "model": reader.config.model_dump()})
    return str(folder)


def write_scene_model(folder: Path, *changes: str) -> str:
    """Write an untrained tiny model of scenes."""
    recipe = load_recipe("aligndraw-scenes", [*SIZES, *OWN, *changes])
    data = load_training_data(recipe, DataSource("cutouts"))
    trainer = VariationalTrainer(data.recipe, data, make_accelerator("cpu", 4))
    folder.mkdir()
    write_model(folder, trainer.model.state_dict(), trainer.config())
    return str(folder)


@pytest.fixture
def model(tmp_path) -> str:
    return write_scene_model(tmp_path / "scenes")


def settings(tmp_path: Path, **changes: object) -> Settings:
    return Settings(metrics=("compositional-accuracy",), images=12, reader=write_reader(tmp_path / "reader"), **changes)


def groups(evaluation: Evaluation) -> dict[tuple[str, str], Measurement]:
    return {(each.group, each.name): each for each in evaluation.measurements}


def test_groups_and_protocols(model, tmp_path):
    chosen = settings(tmp_path)
    measured = groups(evaluate(Pipeline.load(model), chosen, data="cutouts"))
    assert {group: measured[group, "joint"].n for group in COUNTS} == COUNTS
    assert {group: measured[f"{group}, real", "joint"].n for group in COUNTS} == COUNTS
    assert {group: measured[f"{group}, real, soft", "joint"].n for group in COUNTS} == COUNTS
    assert measured["seen, real", "joint"].detail
    assert not measured["seen", "joint"].detail
    assert measured["seen", "joint"].protocol["split"] == "test"
    assert "cutouts" not in measured["seen", "joint"].protocol, "drawings do not depend on them"
    assert measured["seen, real", "joint"].protocol["cutouts"] == "0" * 64
    again = groups(evaluate(Pipeline.load(model), chosen, data="cutouts"))
    assert again == measured


def test_without_cutouts_real_scenes_are_left_out_and_named(model, tmp_path, caplog):
    chosen = settings(tmp_path)
    measured = groups(evaluate(Pipeline.load(model), chosen))
    assert {group for group, _ in measured if "real" in group} == set()
    assert "real scenes: not measured" in caplog.text
    beside = groups(evaluate(Pipeline.load(model), chosen, data="cutouts"))
    assert measured["seen", "joint"] == beside["seen", "joint"], "comparable with one that had cut-outs"


def inputs_of(model: str, chosen: Settings) -> CompositionInputs:
    metrics = {name: METRICS[name] for name in chosen.metrics}
    return CompositionInputs.read(Pipeline.load(model), None, chosen, metrics, ProcessGroup(), no_progress)


def test_splits_draw_other_held_out_captions(model, tmp_path):
    chosen = settings(tmp_path)
    drawn = {}
    for split in ("validation", "test"):
        scenes = inputs_of(model, replace(chosen, split=split)).scenes
        assert {scene.split for scene in scenes if scene.kind != "seen"} == {split}
        assert {scene.split for scene in scenes if scene.kind == "seen"} == {"train"}
        drawn[split] = [scene.caption for scene in scenes]
    assert drawn["validation"][:12] == drawn["test"][:12]
    assert not set(drawn["validation"][12:]) & set(drawn["test"][12:])
    other = inputs_of(model, replace(chosen, seed=1)).scenes
    assert [scene.caption for scene in other] != drawn["test"]
    with_sides = inputs_of(write_scene_model(tmp_path / "sides", "data.sides=true"), chosen).scenes
    assert [scene.caption for scene in with_sides] == drawn["test"], "the same for all models of these things"


def test_every_drawing_is_scored_against_its_own_caption(model, tmp_path, monkeypatch):
    """A perfect model: picture k is grey level k, in which a reader sees what caption k says."""
    inputs = inputs_of(model, settings(tmp_path, samples=2))
    total = len(inputs.texts)
    assert inputs.texts[0] == inputs.texts[1] != inputs.texts[2]

    def read(reader, images):
        rows = (images[:, 0, 0, 0] * total).round().long()
        one_hot = torch.nn.functional.one_hot
        targets = inputs.targets
        return Readings(
            one_hot(targets.things[rows], reader.config.nothing + 1).float() * 0.9 + 0.001,
            one_hot(targets.backgrounds[rows].clamp(min=0), len(BACKGROUND_NAMES)).float(),
        )

    monkeypatch.setattr(compositions, "read_pictures", read)

    def draw(captions, seeds):
        assert captions == [inputs.texts[seed] for seed in seeds]
        return torch.tensor(seeds)[:, None, None, None].expand(-1, 3, 32, 32) / total

    scores = score_drawings(draw, inputs.scorer, inputs.texts, batch_size=7)
    assert scores.joint.all()
    shifted = score_drawings(lambda captions, seeds: draw(captions, seeds).roll(1, 0), inputs.scorer, inputs.texts)
    assert shifted.joint.float().mean() < 0.7, "two drawings of a caption follow each other"


def test_errors(model, tmp_path, run):
    command = ("evaluate", model, "--out", "out.json")
    compositional = (*command, "--metric", "compositional-accuracy")
    for arguments, problem in (
        (command, "give prepared cut-outs with --data for bound, or measure --metric compositional-accuracy only"),
        ((*compositional, "--split", "all"), "--split all: scenes draws captioned scenes; choose validation or test"),
        ((*compositional, "--reader", write_reader(tmp_path / "unlike", NAMES[1:])), "does not know apple; train one on these things"),
        ((*compositional, "--reader", "reader-mnist"), "is a model of kind 'reader'; expected composition-reader"),
        ((*command, "--metric", "fid"), "draws captioned scenes, for which the metrics are compositional-accuracy, bound, r-precision"),
    ):
        code, _, err = run(*arguments)
        assert code == 2
        assert problem in err.splitlines()[-1], err


def test_evaluate_and_compare_on_the_command_line(model, tmp_path, run):
    options = ("--data", "cutouts", "--images", "4", "--bound-samples", "1", "--reader", write_reader(tmp_path / "reader"))
    code, out, err = run("evaluate", model, *options, "--out", "out.json")
    assert code == 0, err
    for text in ("seen, real", "held-out triples", "relation", "importance-weighted, nats"):
        assert text in out, text
    code, out, err = run("compare", model, *options, "--out", "table")
    assert code == 0, err
    table = (tmp_path / "table" / "comparison.md").read_text()
    for text in ("joint, seen, %", "joint, held out, %", "things, seen, %", "background, held out, %", "relation, seen, %"):
        assert text in table, text
    assert "real" not in table


def test_cutouts_in_other_words_are_an_error(tmp_path):
    held_out = HeldOutScenes.from_seed(0, square_cutouts().nouns)
    renamed = [noun.model_copy(update={"one": "a red apple"}) if noun.name == "apple" else noun for noun in held_out.nouns]
    other = HeldOutScenes(tuple(renamed), held_out.pairs, held_out.triples, held_out.words)
    with pytest.raises(ValueError, match="captions name 'apple' in other words than those of the model"):
        compositions.cutouts_of(other, tmp_path)
