"""From a model's name to drawings: finding, loading and running models."""

from __future__ import annotations

import html
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cap2im.checkpoint import CONFIG, SENTENCE_ENCODER, TRAINING_STATE, WEIGHTS, checkpoints, existing_folder, read_config
from cap2im.data.mnist_captions import LAYOUTS
from cap2im.data.sentence_vectors import SentenceEncoder
from cap2im.data.vocabulary import Tokens, Unknown, Vocabulary, pad
from cap2im.files import brief
from cap2im.hub import ENCODER_FILES, download, is_repository
from cap2im.loading import MOST_CANVAS_VALUES, load_network, require_canvases
from cap2im.models.interface import DrawingModel, Frame
from cap2im.models.lapgan import Sharpener, SharpenerConfig
from cap2im.models.precision import BF16_UNSUPPORTED, Precision, autocast, usable_precision
from cap2im.models.text import EncodedText
from cap2im.randomness import picture_noise
from cap2im.registry import MODELS, Spec
from cap2im.rendering.drawing import Drawing, Drawings
from cap2im.sentence_encoders import load_sentence_encoder

BUNDLED = Path(__file__).parent / "pretrained"
PICTURES_AT_ONCE = 100  # bounds memory; a canvas sequence of 60 x 60 x 32 is half a megabyte
EXAMPLE_DIGITS = ((2, 8), (5, 1), (3, 1), (7, 4), (7,), (6,), (9,), (1,))  # one caption of each layout
PIXELS_AT_ONCE = 8 * 256 * 256  # of large pictures, of which a network may hold a hundred maps


def bundled_models() -> list[str]:
    """Names of the models inside the package that draw."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{CONFIG}") if MODELS[read_config(path.parent)["kind"]].draws)


def find_model(name: str) -> Path:
    """The folder of a model: a bundled name, a model folder, a run (its finished model, or else its last checkpoint), or a hub repository.

    Raises:
        ValueError: there is no such model; the message lists those that exist.
    """
    if name in bundled_models():
        return BUNDLED / name
    path = existing_folder(Path(name))
    if path.is_dir():
        for folder in (path, existing_folder(path / "model")):
            if (folder / CONFIG).is_file():
                return folder
        if found := checkpoints(path):
            return found[-1]
        raise ValueError(f"{path}: neither a model (no {CONFIG}) nor a run (no checkpoint)")
    if is_repository(name):
        return download(name, [CONFIG, WEIGHTS, "README.md", *(f"{SENTENCE_ENCODER}/{pattern}" for pattern in ENCODER_FILES)])
    raise ValueError(f"unknown model {name!r}; bundled: {', '.join(bundled_models())}; or a folder, or OWNER/NAME on the Hugging Face hub")


def find_device(name: str) -> torch.device:
    """A device of this machine; "cuda" shares the devices out among the processes of `accelerate launch`.

    Raises:
        ValueError: there is no such device; the message says which there are.
    """
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *(["mps"] if torch.backends.mps.is_available() else [])]
    wanted = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % max(1, torch.cuda.device_count())}" if name == "cuda" else name
    if wanted not in there:
        raise ValueError(f"no device {name!r} on this machine; there is {', '.join(there)}")
    return torch.device(wanted)


def own_encoder(folder: Path, config: Mapping[str, Any], features: int) -> SentenceEncoder:
    """Load the sentence encoder of a model that is conditioned on sentence vectors.

    A finished model has its encoder in its folder. A checkpoint of a training has none yet: the encoder that its recipe names is read from
    this machine. The hub is never asked for what a config names.

    Args:
        folder: of the model.
        config: its config.json.
        features: width of the vectors that it needs.

    Raises:
        ValueError: there is none, or its vectors are of another width.
    """
    own, named = folder / SENTENCE_ENCODER, config.get("data", {}).get("sentence_encoder")
    if own.is_dir():
        name = str(own)
    elif isinstance(named, str) and named and (folder / TRAINING_STATE).is_file():
        name = named
    else:
        trained = f"; it was trained with {brief(named)}" if named else ""
        raise ValueError(
            f"{folder}: hears sentence vectors and has no encoder of them: put one into {own} "
            f"(cap2im convert makes one of the authors' skip-thought tables{trained})"
        )
    encoder = load_sentence_encoder(name, ask_hub=False)
    if encoder.features != features:
        raise ValueError(f"{name}: answers {encoder.features} features, the model in {folder} hears {features}")
    return encoder


def shown_name(name: str, folder: Path) -> str:
    """Return the display name of a model that `find_model` found in a folder; RUN/model is named after its run."""
    if folder.parent == BUNDLED:
        return name
    path = Path(name).resolve()
    return path.parent.name if path.name == "model" and (path.parent / "checkpoints").is_dir() else path.name


@dataclass(frozen=True, repr=False)
class Sharpening:
    """A sharpener, ready for pictures: its noise is fixed to the mean, so that it is deterministic (alignDRAW, section 3.4).

    Attributes:
        name: what people call the sharpener.
        model: the network, in evaluation mode.
        sha256: of its weights.
        vocabulary: the words that it knows; None where it reads none.
        encoder: makes the sentence vectors, for a sharpener that is conditioned on them.
    """

    name: str
    model: Sharpener
    sha256: str
    vocabulary: Vocabulary | None = None
    encoder: SentenceEncoder | None = None

    @classmethod
    def load(cls, name: str, *, device: str = "cpu") -> Sharpening:
        """Finds and loads a sharpener; names are those of `find_model`.

        Raises:
            ValueError: there is no such model or device, it does not sharpen, its files are damaged, or its sentence encoder is missing.
        """
        target, folder = find_device(device), find_model(name)
        loaded = load_network(folder, {"sharpener": lambda sizes: Sharpener(SharpenerConfig.model_validate(sizes))}, " does not sharpen")
        model, vocabulary, encoder = loaded.network, loaded.vocabulary, None
        if not model.config.reads_words:
            vocabulary, encoder = None, own_encoder(folder, loaded.config, model.config.sentence_features)
        return cls(shown_name(name, folder), model.to(target), loaded.sha256, vocabulary, encoder)

    def __repr__(self) -> str:
        c = self.model.config
        return f"Sharpening({self.name!r}, {c.side} x {c.side} pixels in {_plural(c.colours, 'colour')}, on {self.device})"

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def training_unknown(self) -> Unknown:
        """What its training did with unknown words, as it is measured with them."""
        return "skip" if self.vocabulary is None else self.vocabulary.training_unknown

    def tokens(self, captions: Sequence[str], unknown: Unknown = "error") -> list[Tokens]:
        """Captions as words and numbers, for a sharpener that reads words; none for one that does not.

        Raises:
            ValueError: empty or over-long captions, unknown words; see `Vocabulary.encode`.
        """
        try:
            return [] if self.vocabulary is None else self.vocabulary.encode(captions, unknown)
        except ValueError as error:
            raise ValueError(f"sharpener {self.name}: {error}") from None

    def sentences(self, captions: Sequence[str], unknown: Unknown = "error") -> Tensor:
        """[N, S] what the sharpener hears of captions; errors are those of `tokens`."""
        if self.encoder is not None:
            return self.encoder.encode(captions).to(self.device)
        tokens, mask = pad([t.numbers for t in self.tokens(captions, unknown)])
        return self.model.encode(tokens.to(self.device), mask.to(self.device))

    @torch.inference_mode()
    def of(self, captions: Sequence[str], unknown: Unknown = "error") -> Callable[[Tensor, slice | Tensor], Tensor]:
        """Sharpens pictures of these captions, which are read once: `(images [n, C, A, A] in 0..1, their rows) -> sharper images`.

        This is what `metrics.likelihood.lower_bound` takes, for the bound on sharpened images.
        """
        sentences = self.sentences(captions, unknown)
        return torch.inference_mode()(lambda images, rows: self.model.sharpen(images, sentences[rows]))

    def sharpen(self, images: Tensor, captions: Sequence[str], unknown: Unknown = "error") -> Tensor:
        """Sharper images [N, C, A, A] in 0..1 of images [N, C, A, A] in 0..1, each with its caption.

        Raises:
            ValueError: images of another size, another number of captions, or those of `tokens`.
        """
        c = self.model.config
        if tuple(images.shape) != (len(captions), c.colours, c.side, c.side):
            wanted = [len(captions), c.colours, c.side, c.side]
            raise ValueError(f"{self.name} sharpens {wanted}, an image for each caption; got {list(images.shape)}")
        sharpen = self.of(captions, unknown)
        parts = [slice(start, start + pictures_at_once(c.side)) for start in range(0, len(images), pictures_at_once(c.side))]
        return torch.cat([sharpen(images[rows].to(self.device), rows) for rows in parts])


@dataclass(frozen=True)
class Glimpses:
    """One glimpse each of several drawings that are drawn together.

    Attributes:
        first: number of the first of them among those that were asked for.
        canvases: [B, A, A, C] after the glimpse.
        words: [B, L] weight of each word, zero beyond a caption's last; None without attention.
        boxes: [B, 4] left, top, right, bottom of the write window in pixels, None without one.
    """

    first: int
    canvases: NDArray[np.uint8]
    words: NDArray[np.floating] | None
    boxes: NDArray[np.floating] | None


@dataclass(frozen=True, repr=False)
class Pipeline:
    """A model, ready to draw. In a notebook it shows a short card.

    Attributes:
        name: what people call the model.
        model: the network, in evaluation mode.
        vocabulary: the words that it knows.
        config: the whole config.json.
        encoder: makes the sentence vectors, for a model that is conditioned on them.
        sharpening: what every finished picture goes through, or None.
        precision: in which the network draws; captions are encoded, and pictures sharpened, in fp32.
    """

    name: str
    model: DrawingModel
    vocabulary: Vocabulary
    config: dict[str, Any]
    encoder: SentenceEncoder | None = None
    sharpening: Sharpening | None = None
    precision: Precision = "fp32"

    @classmethod
    def load(cls, name: str, *, device: str = "cpu", sharpen: str | None = None, precision: Precision = "fp32") -> Pipeline:
        """Finds and loads a model, and a sharpener of its drawings; see `find_model` for names and errors.

        In bf16 large pictures are drawn several times as fast, and differ slightly; a device that does not multiply in it draws in fp32.
        """
        target = find_device(device)
        folder = find_model(name)
        makers = {name: partial(_make, kind) for name, kind in MODELS.items() if kind.draws}
        loaded = load_network(folder, makers, " does not draw", partial(_require_drawable, folder))
        model, vocabulary, config, sizes = loaded.network, loaded.vocabulary, loaded.config, loaded.network.config
        if vocabulary is None:
            raise ValueError(f"{folder}: config and weights do not fit: config.json has no vocabulary")
        encoder = own_encoder(folder, config, sizes.sentence_features) if sizes.conditioning == "sentence" else None
        if usable_precision(precision, target) != precision:
            print(f"{shown_name(name, folder)}: {BF16_UNSUPPORTED}", file=sys.stderr)
        pipeline = cls(
            shown_name(name, folder), model.to(target), vocabulary, config, encoder, precision=usable_precision(precision, target)
        )
        return pipeline if sharpen is None else pipeline.sharpened(Sharpening.load(sharpen, device=device))

    def sharpened(self, sharpening: Sharpening) -> Pipeline:
        """The same model, whose finished pictures are sharpened: drawings end with one more canvas.

        Raises:
            ValueError: the sharpener is of another side or number of colours.
        """
        ours, theirs = ((c.side, c.colours) for c in (self.model.config, sharpening.model.config))
        if ours != theirs:
            told = " and ".join(
                f"{name} {does} {side} x {side} pixels in {colours} colour{'s' if colours > 1 else ''}"
                for name, does, (side, colours) in ((sharpening.name, "sharpens", theirs), (self.name, "draws", ours))
            )
            raise ValueError(f"the sharpener does not fit: {told}")
        return replace(self, name=f"{self.name}+{sharpening.name}", sharpening=sharpening)

    def _card(self) -> dict[str, str]:
        """What a person wants to know of the model at a glance."""
        c, parameters = self.model.config, sum(each.numel() for each in self.model.parameters())
        reads = {"none": "no captions", "sentence": "sentence vectors"}.get(c.conditioning, f"{len(self.vocabulary):,} words")
        steps = f", {_plural(self.glimpses, 'glimpse')}" if self.glimpses > 1 else ""
        card = {
            "draws": f"{c.side} x {c.side} pixels in {_plural(c.colours, 'colour')}{steps}",
            "reads": reads,
            "parameters": f"{parameters:,}",
            "runs in": f"{self.precision} on {self.device}",
        }
        return card | ({"try": f"model.draw({self.examples[0]!r})"} if self.examples else {})

    def __repr__(self) -> str:
        return f"Pipeline({self.name!r}: {'; '.join(f'{key} {value}' for key, value in self._card().items())})"

    def _repr_html_(self) -> str:
        """For notebooks: the name, the description and a table."""
        rows = "".join(f"<tr><td>{html.escape(key)}</td><td>{html.escape(value)}</td></tr>" for key, value in self._card().items())
        about = html.escape(str(self.config.get("description", "")))
        return f"<b>{html.escape(self.name)}</b><br>{about}<table>{rows}</table>"

    @property
    def examples(self) -> list[str]:
        """Captions that the model can draw, of the data it was trained on; none where its config does not say what that was."""
        data = self.config.get("data", {})
        if data.get("source") in ("mnist", "digits"):
            return [layout.caption(digits).removesuffix(" .") for layout, digits in zip(LAYOUTS, EXAMPLE_DIGITS, strict=True)]
        known = [caption for caption in data.get("shown", ()) if isinstance(caption, str) and not self.strangers(caption)]
        return list(dict.fromkeys(caption.strip().removesuffix(" .") for caption in known if caption.strip()))

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def drawer(self) -> str:
        """The model's name on its drawings: with the precision, if that is not fp32."""
        return self.name if self.precision == "fp32" else f"{self.name} in {self.precision}"

    @property
    def glimpses(self) -> int:
        """T, canvases of a drawing; sharpening adds one."""
        return self.model.glimpses + (self.sharpening is not None)

    @property
    def at_once(self) -> int:
        """Pictures that are drawn at once; they do not depend on each other."""
        c = self.model.config
        return max(1, min(pictures_at_once(c.side), MOST_CANVAS_VALUES // (self.model.glimpses * c.colours * c.side**2)))

    def draw(self, captions: str | Sequence[str], *, samples: int = 1, seed: int = 0, unknown: Unknown = "error") -> Drawings:
        """Draw captions.

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
        pairs = [(caption, seed + k) for caption in captions for k in range(samples)]
        return self.drawings([caption for caption, _ in pairs], [each for _, each in pairs], unknown=unknown)

    def drawings(
        self, captions: Sequence[str], seeds: Sequence[int], *, unknown: Unknown = "error", watch: Callable[[Glimpses], None] | None = None
    ) -> Drawings:
        """Draw caption i from seed i; see `iterate` for the arguments and errors."""
        return Drawings(self.iterate(captions, seeds, unknown=unknown, watch=watch))

    def iterate(
        self, captions: Sequence[str], seeds: Sequence[int], *, unknown: Unknown = "error", watch: Callable[[Glimpses], None] | None = None
    ) -> Iterator[Drawing]:
        """Draw caption i from seed i, in batches of `at_once` pictures, of which one is in memory at a time.

        Args:
            captions: any number.
            seeds: as many, 0 or more.
            unknown: what to do with words that the model does not know.
            watch: is shown every glimpse as soon as it is drawn.

        Raises:
            ValueError: unknown words, an empty or over-long caption, another number of seeds; before anything is drawn.
        """
        if len(captions) != len(seeds):
            raise ValueError(f"{len(seeds)} seeds for {len(captions)} captions: each caption needs one")
        read = dict(zip(different := list(dict.fromkeys(captions)), self.tokens(different, unknown), strict=True))
        parts = [slice(start, start + self.at_once) for start in range(0, len(captions), self.at_once)]
        return (
            drawing
            for rows in parts
            for drawing in self._draw(
                captions[rows], [read[caption] for caption in captions[rows]], seeds[rows], unknown, rows.start, watch
            )
        )

    def strangers(self, caption: str) -> list[str]:
        """Return the words of a caption that the model, or the sharpener of its pictures, does not know; see `Vocabulary.unknown_words`."""
        vocabularies = [self.vocabulary] if self.model.config.reads_words else []
        if self.sharpening is not None and self.sharpening.vocabulary is not None:
            vocabularies.append(self.sharpening.vocabulary)
        return list(dict.fromkeys(word for each in vocabularies for word in each.unknown_words(caption)))

    def tokens(self, captions: Sequence[str], unknown: Unknown = "error") -> list[Tokens]:
        """Captions as words and numbers; a model that does not read words by number takes any word.

        Raises:
            ValueError: empty or over-long captions, unknown words (to the sharpener, too); see `Vocabulary.encode`.
        """
        if self.sharpening is not None:
            self.sharpening.tokens(captions, unknown)
        return self.vocabulary.encode(captions, unknown if self.model.config.reads_words else self.vocabulary.training_unknown)

    def _inputs(self, captions: Sequence[str], tokens: Sequence[Tokens], seeds: Sequence[int]) -> tuple[EncodedText | None, Tensor]:
        numbers, mask = pad([t.numbers for t in tokens])
        vectors = None if self.encoder is None else self.encoder.encode(captions).to(self.device)
        text = self.model.encode(numbers.to(self.device), mask.to(self.device), vectors, independent=True)
        return text, picture_noise(seeds, self.model.noise_shape).to(self.device)

    @torch.inference_mode()
    def sample_images(self, text: EncodedText | None, noise: Tensor) -> Tensor:
        """The model's own `picture` [B, C, A, A] of encoded captions, in the precision in which it is to draw; not sharpened."""
        with autocast(self.device, self.precision):
            return self.model.sample_images(text, noise).float()

    @torch.inference_mode()
    def _draw(
        self,
        captions: Sequence[str],
        tokens: Sequence[Tokens],
        seeds: Sequence[int],
        unknown: Unknown,
        first: int,
        watch: Callable[[Glimpses], None] | None,
    ) -> Iterator[Drawing]:
        seen = None if watch is None else lambda step: watch(_glimpses(first, step))
        inputs = self._inputs(captions, tokens, seeds)
        with autocast(self.device, self.precision):
            sequence = self.model.sample(*inputs) if seen is None else self.model.sample_streaming(*inputs, seen)
        sequence = sequence.in_fp32()
        pictures, attention, boxes = sequence.pictures, sequence.words, sequence.boxes  # [B, T, C, A, A], [B, T, L], [B, T, 4]
        if self.sharpening is not None:  # one more step, which writes over the whole canvas and hears all words alike
            side = self.model.config.side
            pictures = _followed_by(pictures, self.sharpening.sharpen(pictures[:, -1], captions, unknown))
            attention = None if attention is None else _followed_by(attention, _alike([len(t.words) for t in tokens], attention))
            boxes = None if boxes is None else _followed_by(boxes, boxes.new_tensor([0, 0, side, side]).expand_as(boxes[:, -1]))
            if seen is not None:
                seen(Frame(pictures[:, -1], *(None if each is None else each[:, -1] for each in (attention, boxes))))
        canvases = _levels(pictures)  # [B, T, A, A, C]
        stages = [_levels(stage) for stage in sequence.stages]  # [B, a, a, C]
        drawer = self.drawer
        for row, (caption, read, seed) in enumerate(zip(captions, tokens, seeds, strict=True)):
            words = None if attention is None else attention[row, :, : len(read.words)].cpu().numpy()
            shown = read.words if words is not None else ()
            written = None if boxes is None else boxes[row].cpu().numpy()
            maps = tuple(weights[row, : len(shown)].cpu().numpy() for weights in sequence.maps)
            sizes = tuple(stage[row] for stage in stages)
            yield Drawing(caption, shown, seed, drawer, canvases=canvases[row], attention=words, boxes=written, stages=sizes, maps=maps)

    @torch.inference_mode()
    def images(self, captions: Sequence[str], seeds: Sequence[int], *, unknown: Unknown = "error") -> Tensor:
        """Pictures alone, [N, C, A, A] in 0..1, sharpened where there is a sharpener: caption i from seed i."""
        tokens = self.tokens(captions, unknown)
        pictures = []
        for start in range(0, len(tokens), self.at_once):
            rows = slice(start, start + self.at_once)
            drawn = self.sample_images(*self._inputs(captions[rows], tokens[rows], seeds[rows]))
            pictures.append((drawn if self.sharpening is None else self.sharpening.sharpen(drawn, captions[rows], unknown)).cpu())
        return torch.cat(pictures)


def _make(kind: Spec, sizes: dict[str, Any]) -> DrawingModel:
    network: DrawingModel = kind.network_class(kind.config_class.model_validate(sizes))
    return network


def _require_drawable(folder: Path, model: DrawingModel) -> None:
    require_canvases(folder, model.glimpses, model.config.side, model.config.colours)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def pictures_at_once(side: int) -> int:
    """How many pictures of A x A pixels are drawn together, whoever draws them."""
    return max(1, min(PICTURES_AT_ONCE, PIXELS_AT_ONCE // side**2))


def _levels(pictures: Tensor) -> NDArray[np.uint8]:
    """Pictures [..., C, H, W] in 0..1 as [..., H, W, C]."""
    return pictures.mul(255).round().to(torch.uint8).movedim(-3, -1).cpu().numpy()


def _followed_by(steps: Tensor, last: Tensor) -> Tensor:
    """Steps [B, T, ...] and one more [B, ...]."""
    return torch.cat([steps, last.unsqueeze(1)], dim=1)


def _alike(lengths: Sequence[int], like: Tensor) -> Tensor:
    """[B, L] equal weights of each caption's words, with the type and place of `like` [B, T, L]."""
    there = torch.arange(like.shape[2]) < torch.tensor(lengths)[:, None]
    return (there / there.sum(dim=1, keepdim=True)).to(like)


def _glimpses(first: int, step: Frame) -> Glimpses:
    words, boxes = (None if each is None else each.float().cpu().numpy() for each in (step.words, step.boxes))
    return Glimpses(first, _levels(step.pictures.float()), words, boxes)
