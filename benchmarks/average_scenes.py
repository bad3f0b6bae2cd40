"""Read the average picture of a caption: what a model of captioned scenes without latents can reach at best.

    python -m benchmarks.average_scenes aligndraw-scenes --data cutouts/

The average of many scenes with one caption is the picture with the highest likelihood among those that depend on the caption only. For
each layout the program prints the bound of these averages on other scenes with the same captions, and how often `reader-scenes` reads in
them what the caption says.

Shapes: N captions, M scenes of each, A pixels a side.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
import torch.nn.functional as F

from cap2im.config import ScenesData, VariationalRecipe, load_recipe
from cap2im.data.scene_maker import SceneMaker
from cap2im.data.scenes import LAYOUTS
from cap2im.loading import load_model
from cap2im.metrics.compositional_accuracy import read_pictures, score, targets_of
from cap2im.models.composition_reader import CompositionReader
from cap2im.randomness import generator
from cap2im.training.scene_data import SceneData

CANDIDATES = 20  # captions drawn for each that is kept; a quarter or less has the layout


def average_scenes(maker: SceneMaker, reader: CompositionReader, captions: int, scenes: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """Return for each layout the bound in nats, and the share of the average pictures with the right things, relation and both.

    Args:
        maker: of the scenes; the captions are those that training shows.
        reader: in evaluation mode.
        captions: N, of each layout.
        scenes: M, averaged for each caption.
        seed: of captions and scenes.
    """
    random = generator("average scenes", seed)
    held_out = replace(maker.held_out, sides=False)  # the captions of compositional accuracy
    drawn = held_out.draw(CANDIDATES * captions, random)
    names = [noun.name for noun in held_out.nouns]
    results = {}
    for index in drawn.layouts.unique().tolist():
        chosen = drawn[(drawn.layouts == index).nonzero().flatten()[:captions]]
        painted = [maker.render(chosen, random).images.float() / 255 for _ in range(scenes + 1)]
        average = torch.stack(painted[:-1]).mean(dim=0)  # [N, 3, A, A]
        nats = F.binary_cross_entropy(average, painted[-1], reduction="none").flatten(1).sum(dim=1).mean()
        scores = score(read_pictures(reader, average), targets_of(held_out.scenes(chosen), names, reader.config))
        rates = {name: getattr(scores, name).double().mean().item() for name in ("things", "relation", "joint")}
        results[LAYOUTS[index].name] = {"bound": -nats.item()} | rates
    return results


def main() -> None:
    """Print a line for each layout."""
    parser = argparse.ArgumentParser(description="Read the average picture of a caption.")
    parser.add_argument("recipe", help="of a model of scenes: names things, side and held-out scenes")
    parser.add_argument("--data", required=True, help="prepared cut-outs")
    parser.add_argument("--captions", type=int, default=200, help="of each layout")
    parser.add_argument("--scenes", type=int, default=100, help="averaged for each caption")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe)
    if not isinstance(recipe, VariationalRecipe) or not isinstance(recipe.data, ScenesData):
        parser.error(f"{arguments.recipe} is not a recipe of a model of scenes; aligndraw-scenes is one")
    maker = SceneData.load(recipe.data, arguments.data).maker(recipe.model.side)
    reader = load_model("reader-scenes", CompositionReader).network
    for layout, values in average_scenes(maker, reader, arguments.captions, arguments.scenes).items():
        rates = ", ".join(f"{name} {100 * values[name]:.1f} %" for name in ("things", "relation", "joint"))
        print(f"{layout}: bound {values['bound']:,.1f} nats, {rates}")


if __name__ == "__main__":
    main()
