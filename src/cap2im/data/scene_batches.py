"""Batches of captioned scenes, drawn anew for every update.

Shapes: B batch, A side, L words.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from cap2im.data.batch import ALL, Batch, fixed_noise, pad, step_noise
from cap2im.data.scene_maker import CaptionedScenes, SceneMaker
from cap2im.data.vocabulary import Vocabulary
from cap2im.randomness import generator


def scene_tokens(captions: Sequence[str], vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """Return the tokens and the mask [B, L] of captions of scenes.

    The captions are lower case, with spaces between words, and every word is known: numbers are looked up, which takes a tenth of the time
    of `Vocabulary.encode`.
    """
    numbers = vocabulary.numbers
    stop = numbers["."]
    return pad([[*(numbers[word] for word in caption.split()), stop] for caption in captions])


class SceneBatches:
    """Batches of fresh scenes; every batch is a function of the seed and the step.

    Args:
        maker: paints the scenes.
        vocabulary: numbers the words.
        noise_shape: (T, Z) of the model's noise.
        samples_per_epoch: scenes that count as an epoch.
        batch_size: over all processes.
        seed: of scenes and noise.
        one_thing_until: updates at the start whose scenes have one thing.

    Raises:
        ValueError: the vocabulary lacks words of the captions.
    """

    def __init__(
        self,
        maker: SceneMaker,
        vocabulary: Vocabulary,
        noise_shape: tuple[int, int],
        samples_per_epoch: int,
        batch_size: int,
        seed: int,
        *,
        one_thing_until: int = 0,
    ) -> None:
        if missing := [word for word in maker.held_out.words_shown() if word not in vocabulary.numbers]:
            raise ValueError(f"the vocabulary lacks words of the scenes: {', '.join(missing[:5])}")
        self.maker, self.vocabulary, self.noise_shape = maker, vocabulary, noise_shape
        self.batch_size, self.seed = batch_size, seed
        self.one_thing_until = one_thing_until
        self.steps_per_epoch = samples_per_epoch // batch_size

    def at(self, step: int, rows: slice = ALL) -> Batch:
        """Return the batch for update `step` + 1, or some rows of it."""
        scenes = self.maker.make(self.batch_size, generator("scenes", self.seed, step), one_thing=step < self.one_thing_until)
        return self._batch(scenes, step_noise(self.seed, step, self.batch_size, self.noise_shape))[rows]

    def fixed(self, count: int) -> Batch:
        """Return a batch for validation: the same scenes and noise at every call and for any seed."""
        return self._batch(self.maker.make(count, generator("fixed scenes")), fixed_noise(count, self.noise_shape))

    def _batch(self, scenes: CaptionedScenes, noise: Tensor) -> Batch:
        tokens, mask = scene_tokens(scenes.captions, self.vocabulary)
        return Batch(scenes.images.float() / 255, tokens, mask, noise, classes=scenes.arrangements.classes())
