"""From a model's name to drawings: finding, loading and running models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from cap2im.checkpoint import CONFIG, SENTENCE_ENCODER, WEIGHTS, checkpoints, read_config, read_weights
from cap2im.data.vocabulary import Tokens, Unknown, Vocabulary, pad
from cap2im.drawing import Drawing
from cap2im.hub import ENCODER_FILES, download, is_repository
from cap2im.models.interface import DrawingModel
from cap2im.models.kinds import DRAWING_KINDS
from cap2im.models.text import EncodedText
from cap2im.randomness import picture_noise
from cap2im.sentences import SentenceEncoder, load_sentence_encoder

BUNDLED = Path(__file__).parent / "pretrained"
PICTURES_AT_ONCE = 100  # bounds memory; a canvas sequence of 60 x 60 x 32 is half a megabyte


def bundled_models() -> list[str]:
    """Names of the models inside the package that draw."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{CONFIG}") if read_config(path.parent)["kind"] in DRAWING_KINDS)


def find_model(name: str) -> Path:
    """The folder of a model: a bundled name, a model folder, a run (its finished model, or else its last checkpoint), or a hub repository.

    Raises:
        ValueError: there is no such model; the message lists those that exist.
    """
    if name in bundled_models():
        return BUNDLED / name
    path = Path(name)
    if path.is_dir():
        if (path / CONFIG).is_file():
            return path
        if (path / "model" / CONFIG).is_file():
            return path / "model"
        if found := checkpoints(path):
            return found[-1]
        raise ValueError(f"{path}: neither a model (no {CONFIG}) nor a run (no checkpoint)")
    if is_repository(name):
        return download(name, [CONFIG, WEIGHTS, "README.md", *(f"{SENTENCE_ENCODER}/{pattern}" for pattern in ENCODER_FILES)])
    raise ValueError(f"unknown model {name!r}; bundled: {', '.join(bundled_models())}; or a folder, or OWNER/NAME on the Hugging Face hub")


def find_device(name: str) -> torch.device:
    """A device of this machine.

    Raises:
        ValueError: there is no such device; the message says which there are.
    """
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *(["mps"] if torch.backends.mps.is_available() else [])]
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in there:
        raise ValueError(f"no device {name!r} on this machine; there is {', '.join(there)}")
    return torch.device(wanted)


@dataclass(frozen=True)
class Pipeline:
    """A model, ready to draw.

    Attributes:
        name: what people call the model.
        model: the network, in evaluation mode.
        vocabulary: the words that it knows.
        config: the whole config.json.
        encoder: makes the sentence vectors, for a model that is conditioned on them.
    """

    name: str
    model: DrawingModel
    vocabulary: Vocabulary
    config: dict[str, Any]
    encoder: SentenceEncoder | None = None

    @classmethod
    def load(cls, name: str, *, device: str = "cpu") -> Pipeline:
        """Finds and loads a model; see `find_model` for names and errors."""
        target = find_device(device)
        folder = find_model(name)
        config = read_config(folder)
        kind = DRAWING_KINDS.get(config.get("kind", ""))
        if kind is None:
            raise ValueError(f"{folder}: a model of kind {config.get('kind')!r} does not draw")
        try:
            model, vocabulary = kind.make(kind.config.model_validate(config["model"])), Vocabulary.model_validate(config["vocabulary"])
            sizes = model.config
            if sizes.reads_words and sizes.vocabulary_size != len(vocabulary):
                raise ValueError(f"{sizes.vocabulary_size} word vectors for {len(vocabulary)} words")
            model.load_state_dict({key: value.float() for key, value in read_weights(folder, config).items()})
        except (KeyError, ValidationError, RuntimeError) as error:
            raise ValueError(f"{folder}: config and weights do not fit: {' '.join(str(error).split())[:300]}") from None
        encoder = None
        if sizes.conditioning == "sentence":
            own = folder / SENTENCE_ENCODER  # a finished model has a copy of an encoder that was a folder
            encoder = load_sentence_encoder(str(own) if own.is_dir() else config["data"]["sentence_encoder"])
        shown = name if folder.parent == BUNDLED else Path(name).resolve().name
        return cls(shown, model.to(target).eval().requires_grad_(False), vocabulary, config, encoder)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def draw(self, captions: str | Sequence[str], *, samples: int = 1, seed: int = 0, unknown: Unknown = "error") -> list[Drawing]:
        """Draws captions.

        Args:
            captions: one or several.
            samples: pictures of each caption. Picture k of every caption comes from seed + k.
            seed: 0 or more; the same caption and seed give the same picture, alone or in any company.
            unknown: what to do with words that the model does not know: "error" or "skip".

        Returns:
            the drawings, all of the first caption first.

        Raises:
            ValueError: unknown words, an empty or over-long caption, a negative seed, fewer than one sample.
        """
        captions = [captions] if isinstance(captions, str) else list(captions)
        if samples < 1:
            raise ValueError(f"samples is {samples}; at least 1 is needed")
        if seed < 0:
            raise ValueError(f"seed is {seed}; it must not be negative")
        tokens = self.tokens(captions, unknown)
        jobs = [(c, t, seed + k) for c, t in zip(captions, tokens, strict=True) for k in range(samples)]
        return [
            drawing for start in range(0, len(jobs), PICTURES_AT_ONCE) for drawing in self._draw(jobs[start : start + PICTURES_AT_ONCE])
        ]

    def tokens(self, captions: Sequence[str], unknown: Unknown = "error") -> list[Tokens]:
        """Captions as words and numbers; a model that does not read words by number takes any word.

        Raises:
            ValueError: empty or over-long captions, unknown words; see `Vocabulary.encode`.
        """
        return self.vocabulary.encode(captions, unknown if self.model.config.reads_words else self.vocabulary.training_unknown)

    def _inputs(self, captions: Sequence[str], tokens: Sequence[Tokens], seeds: Sequence[int]) -> tuple[EncodedText | None, Tensor]:
        numbers, mask = pad([t.numbers for t in tokens])
        vectors = None if self.encoder is None else self.encoder.encode(captions).to(self.device)
        text = self.model.encode(numbers.to(self.device), mask.to(self.device), vectors, alone=True)
        return text, picture_noise(seeds, self.model.noise_shape).to(self.device)

    @torch.inference_mode()
    def _draw(self, jobs: Sequence[tuple[str, Tokens, int]]) -> Iterable[Drawing]:
        sequence = self.model.sample(*self._inputs(*zip(*jobs, strict=True)))
        canvases = sequence.pictures.mul(255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).cpu().numpy()  # [B, T, A, A, C]
        boxes = None if sequence.windows is None else self.model.write_boxes(sequence.windows).cpu().numpy()
        for row, (caption, tokens, seed) in enumerate(jobs):
            words = None if sequence.words is None else sequence.words[row, :, : len(tokens.words)].cpu().numpy()
            shown = tokens.words if words is not None else ()
            written = None if boxes is None else boxes[row]
            yield Drawing(caption, shown, seed, self.name, canvases=canvases[row], attention=words, boxes=written)

    @torch.inference_mode()
    def images(self, captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """Pictures alone, [N, C, A, A] in 0..1: caption i from seed i."""
        tokens = self.tokens(captions)
        pictures = []
        for start in range(0, len(tokens), PICTURES_AT_ONCE):
            rows = slice(start, start + PICTURES_AT_ONCE)
            pictures.append(self.model.picture(*self._inputs(captions[rows], tokens[rows], seeds[rows])).cpu())
        return torch.cat(pictures)
