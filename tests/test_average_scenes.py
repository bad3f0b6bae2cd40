"""What the average picture of a caption reaches."""

from __future__ import annotations

import torch
from benchmarks.average_scenes import average_scenes

from cap2im.data.scene_maker import SceneMaker, visible
from cap2im.data.scenes import BACKGROUND_NAMES, HeldOutScenes
from cap2im.models.composition_reader import CompositionReader, CompositionReaderConfig
from tests.squares import square_cutouts


def test_more_scenes_make_a_likelier_average():
    cutouts = square_cutouts()
    reader = CompositionReader(CompositionReaderConfig(things=cutouts.things, backgrounds=BACKGROUND_NAMES, channels=2)).eval()
    with torch.no_grad():
        reader.classify[1].bias[cutouts.things.index("bird")] = 100  # always a bird, in the middle
    maker = SceneMaker(cutouts, HeldOutScenes.from_seed(0, cutouts.nouns, visible(cutouts)), 32)
    few, many = (average_scenes(maker, reader, captions=30, scenes=scenes) for scenes in (1, 12))
    assert all(many[layout]["bound"] > few[layout]["bound"] for layout in many)
    assert 0 < many["one"]["things"] < 0.5, "birds only"
    assert [many[layout]["things"] for layout in ("beside", "above")] == [0, 0], "two birds are not a bird and another thing"
