"""Choose the things of captioned scenes: those that a reader reads reliably in every style of drawing.

    cap2im train reader-scenes --data cutouts/ --run runs/reader-scenes
    python -m benchmarks.choose_things runs/reader-scenes --data cutouts/ --least 0.95

It prints the rates of all things of the reader with what they are most often taken for, and the names of the chosen things as TOML.

Shapes: V things, S styles, N scenes.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from dataclasses import dataclass

import torch
from torch import Tensor

from cap2im.data.cutouts import Cutouts
from cap2im.loading import load_model
from cap2im.metrics.compositional_accuracy import SIDE, read_pictures, targets_of
from cap2im.models.composition_reader import CompositionReader
from cap2im.randomness import generator
from cap2im.training.composition_scenes import any_scenes

NAME = re.compile(r"[a-z-]+( [a-z-]+)?")  # one or two plain words
SCENES_AT_ONCE = 500


@dataclass(frozen=True)
class ThingReadings:
    """How often things are read.

    Attributes:
        names: V things.
        styles: S styles.
        drawn: [V, S] whether the style has the thing.
        right: [V, S] share of the places with the thing at which it is read.
        confusions: [V, V + 1] how often a thing, or nothing, is read in place of another.
    """

    names: tuple[str, ...]
    styles: tuple[str, ...]
    drawn: Tensor
    right: Tensor
    confusions: Tensor

    def worst(self) -> Tensor:
        """Return the rate of each thing in the style in which it is read least often, [V]; styles that lack it do not count."""
        return self.right.masked_fill(~self.drawn, 1).amin(dim=1)

    def chosen(self, least: float, missing_styles: int = 1) -> list[str]:
        """Return the things with plain names that are read reliably in every style.

        Args:
            least: lowest rate in any style.
            missing_styles: most styles that may lack a thing.
        """
        enough = (~self.drawn).sum(dim=1) <= missing_styles
        good = (self.worst() >= least) & enough & self.drawn.any(dim=1)
        return [name for name, yes in zip(self.names, good.tolist(), strict=True) if yes and NAME.fullmatch(name)]

    def table(self) -> str:
        """Return a line for each thing, the least reliable first."""
        lines = []
        for index in self.worst().argsort().tolist():
            count, other = self.confusions[index].max(dim=0)
            taken = f", most often taken for {[*self.names, 'nothing'][int(other)]}" if count else ""
            cells = zip(self.right[index].tolist(), self.drawn[index].tolist(), strict=True)
            rates = " ".join(f"{100 * rate:.0f}" if drawn else "-" for rate, drawn in cells)
            lines.append(f"{self.names[index]}: {rates}{taken}")
        return "\n".join([f"% read in {' '.join(self.styles)}", *lines])


def read_things(reader: CompositionReader, cutouts: Cutouts, samples: int, seed: int = 0) -> ThingReadings:
    """Read scenes of one and two things in each style.

    Args:
        reader: in evaluation mode.
        cutouts: of the reader's things.
        samples: scenes of each style for each thing.
        seed: of the scenes.
    """
    names = reader.config.things
    cutouts = cutouts.choose(names)
    read, shown = torch.zeros(2, len(names), len(cutouts.styles))
    confusions = torch.zeros(len(names), len(names) + 1)
    for column, style in enumerate(cutouts.styles):
        of_style = [cutouts.things[thing] for thing in cutouts.thing[cutouts.style == column].unique().tolist()]
        maker, random = any_scenes(cutouts.choose(of_style, [style]), SIDE), generator("choose things", seed, style)
        for _ in range(-(-samples * len(of_style) // SCENES_AT_ONCE)):
            painted = maker.make(SCENES_AT_ONCE, random)
            targets = targets_of(maker.held_out.scenes(painted.arrangements), of_style, reader.config).things
            classes = read_pictures(reader, painted.images.float() / 255).things.argmax(dim=2)
            places = targets != reader.config.nothing  # [N, P]
            things, seen = targets[places], classes[places]
            shown[:, column].index_add_(0, things, torch.ones(len(things)))
            read[:, column].index_add_(0, things, (things == seen).float())
            wrong = things != seen
            confusions.index_put_((things[wrong], seen[wrong]), torch.ones(int(wrong.sum())), accumulate=True)
    return ThingReadings(names, cutouts.styles, shown > 0, read / shown.clamp(min=1), confusions)


def main() -> None:
    """Print the rates of all things, and the chosen ones."""
    parser = argparse.ArgumentParser(description="Choose the things of captioned scenes.")
    parser.add_argument("reader", help="composition reader: a run or folder")
    parser.add_argument("--data", required=True, help="prepared cut-outs")
    parser.add_argument("--least", type=float, default=0.95, help="lowest share of scenes in which a thing is read, in every style")
    parser.add_argument("--samples", type=int, default=40, help="scenes of each style for each thing")
    arguments = parser.parse_args()
    readings = read_things(load_model(arguments.reader, CompositionReader).network, Cutouts.open(arguments.data), arguments.samples)
    print(readings.table())
    chosen = readings.chosen(arguments.least)
    listed = textwrap.fill(", ".join(f'"{name.replace(" ", "_")}"' for name in chosen), 130, break_on_hyphens=False).replace("_", " ")
    print(f"\n{len(chosen)} of {len(readings.names)} things\nthings = [\n{textwrap.indent(listed, '  ')},\n]")


if __name__ == "__main__":
    main()
