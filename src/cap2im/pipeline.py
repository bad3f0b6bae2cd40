"""Draw captions with a model: captions are tokenised once and drawn in batches.

Shapes: B batch, L words, T glimpses, C colours, A side of the canvas.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cap2im.data.batch import pad
from cap2im.data.mnist_captions import LAYOUTS
from cap2im.data.sentence_vectors import SentenceEncoder
from cap2im.data.vocabulary import Tokens, Unknown, Vocabulary
from cap2im.extras import missing_compiler
from cap2im.files import counted
from cap2im.loading import MOST_CANVAS_VALUES, ModelConfig, load_model
from cap2im.models.interface import DrawingModel, DrawnSequence, Frame, pictures_at_once
from cap2im.models.precision import BF16_UNSUPPORTED, Precision, autocast, usable_precision
from cap2im.models.text import EncodedText
from cap2im.randomness import picture_noise
from cap2im.rendering.drawing import Drawing, Drawings
from cap2im.sentence_encoders import load_own_encoder
from cap2im.sharpening import Sharpening

EXAMPLE_DIGITS = ((2, 8), (5, 1), (3, 1), (7, 4), (7,), (6,), (9,), (1,))  # one caption of each layout

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompt:
    """A tokenised caption.

    Attributes:
        caption: as typed.
        tokens: by the model's vocabulary.
        sharpener_tokens: by the sharpener's vocabulary; None without a sharpener that reads words.
    """

    caption: str
    tokens: Tokens
    sharpener_tokens: Tokens | None = None


@dataclass(frozen=True)
class Glimpses:
    """The same glimpse of several drawings that are drawn in one batch.

    Attributes:
        first: index of the first of them among all prompts.
        canvases: [B, A, A, C] after the glimpse.
        words: [B, L] weight of each word, zero beyond a caption's last; None without attention.
        boxes: [B, 4] left, top, right, bottom of the write window in pixels; None without one.
    """

    first: int
    canvases: NDArray[np.uint8]
    words: NDArray[np.floating] | None
    boxes: NDArray[np.floating] | None


@dataclass(frozen=True, repr=False)
class Pipeline:
    """A model, ready to draw. In a notebook it is shown as a short card.

    Attributes:
        name: display name.
        model: the network, in evaluation mode.
        vocabulary: the words that it knows.
        config: the model's `config.json`.
        encoder: encodes sentence vectors, for a model that is conditioned on them.
        sharpening: applied to every finished picture, or None.
        precision: of drawing; captions are encoded, and pictures sharpened, in fp32.
    """

    name: str
    model: DrawingModel
    vocabulary: Vocabulary
    config: ModelConfig
    encoder: SentenceEncoder | None = None
    sharpening: Sharpening | None = None
    precision: Precision = "fp32"

    @classmethod
    def load(cls, name: str, *, device: str = "cpu", sharpen: str | None = None, precision: Precision = "fp32") -> Pipeline:
        """Find and load a model, and a sharpener of its drawings; `cap2im.loading.load_model` describes names and errors.

        In bf16 large pictures are drawn several times as fast, and differ slightly. A device that does not support bf16 draws in fp32.
        """
        loaded = load_model(name, DrawingModel, device=device)  # type: ignore[type-abstract]
        model, vocabulary = loaded.network, loaded.vocabulary
        assert vocabulary is not None
        conditioned_on_vectors = model.config.conditioning == "sentence"
        encoder = load_own_encoder(loaded, model.config.sentence_features) if conditioned_on_vectors else None
        usable = usable_precision(precision, model.device)
        if usable != precision:
            logger.warning("%s: %s", loaded.name, BF16_UNSUPPORTED)
        pipeline = cls(loaded.name, model, vocabulary, loaded.config, encoder, precision=usable)
        return pipeline if sharpen is None else pipeline.sharpened(Sharpening.load(sharpen, device=device))

    def sharpened(self, sharpening: Sharpening) -> Pipeline:
        """Return this pipeline with a sharpener, which adds one canvas to each drawing.

        Raises:
            ValueError: the sharpener is of another side or number of colours.
        """
        drawn, needed = ((c.side, c.colours) for c in (self.model.config, sharpening.model.config))
        if drawn != needed:
            sizes = " and ".join(
                f"{name} {verb} {side} x {side} pixels in {counted(colours, 'colour')}"
                for name, verb, (side, colours) in ((sharpening.name, "sharpens", needed), (self.name, "draws", drawn))
            )
            raise ValueError(f"the sharpener does not fit: {sizes}")
        return replace(self, name=f"{self.name}+{sharpening.name}", sharpening=sharpening)

    @torch.inference_mode()
    def compile(self, batch: int) -> None:
        """Compile drawing on this thread, for captions of any length: for one picture, and for 2 to `batch` together.

        Pictures change within rounding. A picture that needs another compilation waits for it, unless the stance of `torch.compiler` is
        "eager_on_recompile".

        Raises:
            ValueError: the model has no steps, there is no compiler, or the compiler fails.
        """
        compile_sampling = getattr(self.model, "compile_sampling", None)
        if compile_sampling is None:
            raise ValueError(f"--compile compiles the steps of a recurrent model; {self.name}, of kind {self.config.kind!r}, has none")
        if missing := missing_compiler(self.device.type):
            raise ValueError(f"--compile needs {missing}; --no-compile draws without")
        compile_sampling()
        for size in sorted({1, batch}):
            length = 8 if size != 8 else 9  # torch.compile would take equal sizes of a batch and its captions for the same, always
            tokens = torch.zeros(size, length, dtype=torch.long, device=self.device)
            vectors = torch.zeros(size, self.model.config.sentence_features, device=self.device)
            text = self.model.encode(tokens, torch.ones_like(tokens, dtype=torch.bool), vectors, independent=True)
            try:
                self.sample_images(text, torch.zeros(size, *self.model.noise_shape, device=self.device))
            except torch._dynamo.exc.TorchDynamoException as error:  # for example a file that a killed process left in torch's cache
                reason = " ".join(str(error).strip().split("\n\n")[0].split())  # without advice on logs
                raise ValueError(f"{self.name}: torch.compile failed: {reason}; --no-compile draws without") from error

    def _card(self) -> dict[str, str]:
        """Return what a notebook shows of the model."""
        c, parameters = self.model.config, sum(each.numel() for each in self.model.parameters())
        reads = {"none": "no captions", "sentence": "sentence vectors"}.get(c.conditioning, f"{self.vocabulary.word_count:,} words")
        steps = f", {counted(self.glimpses, 'glimpse')}" if self.glimpses > 1 else ""
        card = {
            "draws": f"{c.side} x {c.side} pixels in {counted(c.colours, 'colour')}{steps}",
            "reads": reads,
            "parameters": f"{parameters:,}",
            "runs in": f"{self.precision} on {self.device}",
        }
        return card | ({"try": f"model.draw({self.examples[0]!r})"} if self.examples else {})

    def __repr__(self) -> str:
        """Return name and card in one line."""
        return f"Pipeline({self.name!r}: {'; '.join(f'{key} {value}' for key, value in self._card().items())})"

    def _repr_html_(self) -> str:
        """Return name, description and card for notebooks."""
        rows = "".join(f"<tr><td>{html.escape(key)}</td><td>{html.escape(value)}</td></tr>" for key, value in self._card().items())
        return f"<b>{html.escape(self.name)}</b><br>{html.escape(self.config.description)}<table>{rows}</table>"

    @property
    def examples(self) -> list[str]:
        """Captions of the training data that the model can draw; empty if its config lists none."""
        data = self.config.data
        if data.get("source") in ("mnist", "digits"):
            return [layout.caption(digits).removesuffix(" .") for layout, digits in zip(LAYOUTS, EXAMPLE_DIGITS, strict=True)]
        known = [caption for caption in data.get("shown", ()) if isinstance(caption, str) and not self.unknown_words(caption)]
        return list(dict.fromkeys(caption.strip().removesuffix(" .") for caption in known if caption.strip()))

    @property
    def _known_words(self) -> str:
        """The number of known words and a caption of them, for messages."""
        example = f', for example "{self.examples[0]}"' if self.examples else ""
        return f"{self.name} knows {self.vocabulary.word_count:,} words{example}"

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.model.device

    @property
    def label(self) -> str:
        """The model's name on its drawings: with the precision, if that is not fp32."""
        return self.name if self.precision == "fp32" else f"{self.name} in {self.precision}"

    @property
    def glimpses(self) -> int:
        """T, canvases of a drawing; sharpening adds one."""
        return self.model.glimpses + (self.sharpening is not None)

    @property
    def batch_size(self) -> int:
        """Largest number of pictures that are drawn in one batch; it bounds memory and does not change a picture."""
        c = self.model.config
        return max(1, min(pictures_at_once(c.side), MOST_CANVAS_VALUES // (self.model.glimpses * c.colours * c.side**2)))

    def unknown_words(self, caption: str) -> list[str]:
        """Return the words of a caption that the model or its sharpener does not know; see `Vocabulary.unknown_words`."""
        vocabularies = [self.vocabulary] if self.model.config.reads_words else []
        if self.sharpening is not None and self.sharpening.vocabulary is not None:
            vocabularies.append(self.sharpening.vocabulary)
        return list(dict.fromkeys(word for each in vocabularies for word in each.unknown_words(caption)))

    def untrained_words(self, caption: str) -> list[str]:
        """Return the words of a caption that the model has not learned: those outside of its vocabulary.

        They are unknown to a model that reads words. A model of sentence vectors draws them as its encoder understands them.
        """
        return self.unknown_words(caption) if self.encoder is None else self.vocabulary.unknown_words(caption)

    def similar_words(self, word: str) -> list[str]:
        """Return known words of similar spelling and, if the sentence encoder has word vectors, of similar meaning."""
        known = [each for each in self.vocabulary.words if self.vocabulary.is_plain(each)]
        meaning = [] if self.encoder is None else self.encoder.nearest(word, known)
        return list(dict.fromkeys([*self.vocabulary.nearest(word), *meaning]))

    def prompts(self, captions: Sequence[str], unknown: Unknown = "error") -> list[Prompt]:
        """Tokenise captions, each different one once. A model that reads no words accepts any.

        Args:
            captions: any text.
            unknown: what to do with unknown words: "error", "skip" or "mark"; see `Vocabulary.encode`.

        Raises:
            ValueError: an empty or over-long caption, or a word that the model or its sharpener does not know.
        """
        distinct = list(dict.fromkeys(captions))
        of_sharpener = None if self.sharpening is None else self.sharpening.tokens(distinct, unknown)
        try:
            tokens = self.vocabulary.encode(distinct, unknown if self.model.config.reads_words else self.vocabulary.training_unknown)
        except ValueError as error:
            if unknown == "error" and any(self.unknown_words(caption) for caption in distinct):
                raise ValueError(f"{error}; {self._known_words}") from None
            raise
        prompts = {
            caption: Prompt(caption, tokens[i], None if of_sharpener is None else of_sharpener[i]) for i, caption in enumerate(distinct)
        }
        return [prompts[caption] for caption in captions]

    def draw(self, captions: str | Sequence[str], *, samples: int = 1, seed: int | None = None, unknown: Unknown = "error") -> Drawings:
        """Draw captions.

        Args:
            captions: one or several.
            samples: pictures of each caption. Picture k of every caption is drawn from seed + k.
            seed: 0 or more; the same caption and seed give the same picture in any batch. None chooses a random one, which the drawings
                record.
            unknown: what to do with unknown words: "error" or "skip".

        Returns:
            The drawings, all of the first caption first.

        Raises:
            ValueError: an unknown word, an empty or over-long caption, a negative seed, or less than one sample.
        """
        captions = [captions] if isinstance(captions, str) else captions
        if samples < 1:
            raise ValueError(f"samples is {samples}; at least 1 is needed")
        if seed is None:
            seed = int(np.random.default_rng().integers(2**31))
        if seed < 0:
            raise ValueError(f"seed is {seed}; it must not be negative")
        pairs = [(prompt, seed + k) for prompt in self.prompts(captions, unknown) for k in range(samples)]
        return self.drawings([prompt for prompt, _ in pairs], [each for _, each in pairs])

    def drawings(self, prompts: Sequence[Prompt], seeds: Sequence[int], *, watch: Callable[[Glimpses], None] | None = None) -> Drawings:
        """Draw prompt i from seed i; see `iterate`."""
        return Drawings(self.iterate(prompts, seeds, watch=watch))

    def iterate(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], *, watch: Callable[[Glimpses], None] | None = None
    ) -> Iterator[Drawing]:
        """Draw prompt i from seed i in batches, of which one is in memory at a time.

        Args:
            prompts: as `Pipeline.prompts` returns them.
            seeds: as many, 0 or more.
            watch: called with every glimpse as soon as it is drawn.

        Raises:
            ValueError: another number of seeds; raised before anything is drawn.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(seeds)} seeds for {len(prompts)} captions: each caption needs one")
        return (
            drawing for rows in self._batches(len(prompts)) for drawing in self._draw_batch(prompts[rows], seeds[rows], rows.start, watch)
        )

    @torch.inference_mode()
    def images(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> Tensor:
        """Draw prompt i from seed i and return the finished pictures [N, C, A, A] in 0..1, sharpened if there is a sharpener."""
        pictures = []
        for rows in self._batches(len(prompts)):
            images = self.sample_images(*self._inputs(prompts[rows], seeds[rows]))
            pictures.append((images if self.sharpening is None else self._sharpen(images, prompts[rows])).cpu())
        return torch.cat(pictures)

    @torch.inference_mode()
    def sample_images(self, text: EncodedText | None, noise: Tensor) -> Tensor:
        """Return `DrawingModel.sample_images` of encoded captions, in the pipeline's precision; not sharpened."""
        with autocast(self.device, self.precision):
            return self.model.sample_images(text, noise).float()

    def _batches(self, count: int) -> list[slice]:
        return [slice(start, start + self.batch_size) for start in range(0, count, self.batch_size)]

    def _inputs(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> tuple[EncodedText | None, Tensor]:
        """Return the encoded captions and the noise of a batch."""
        numbers, mask = pad([prompt.tokens.numbers for prompt in prompts])
        vectors = None if self.encoder is None else self.encoder.encode([prompt.caption for prompt in prompts]).to(self.device)
        text = self.model.encode(numbers.to(self.device), mask.to(self.device), vectors, independent=True)
        return text, picture_noise(seeds, self.model.noise_shape).to(self.device)

    def _sharpen(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        assert self.sharpening is not None
        tokens = [prompt.sharpener_tokens for prompt in prompts if prompt.sharpener_tokens is not None]
        return self.sharpening.apply(images, self.sharpening.encode([prompt.caption for prompt in prompts], tokens))

    @torch.inference_mode()
    def _draw_batch(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], first: int, watch: Callable[[Glimpses], None] | None
    ) -> Iterator[Drawing]:
        on_frame = None if watch is None else lambda frame: watch(_glimpses(first, frame))
        inputs = self._inputs(prompts, seeds)
        with autocast(self.device, self.precision):
            sequence = self.model.sample(*inputs) if on_frame is None else self.model.sample_streaming(*inputs, on_frame)
        sequence = sequence.in_fp32()
        sequence = replace(sequence, canvases=sequence.pictures, logits=False)
        if self.sharpening is not None:
            sequence = _with_last(sequence, self._sharpen(sequence.images, prompts), [len(prompt.tokens.words) for prompt in prompts])
            if on_frame is not None:
                on_frame(Frame(sequence.images, *(None if each is None else each[:, -1] for each in (sequence.words, sequence.boxes))))
        canvases = _uint8(sequence.canvases)  # [B, T, A, A, C]
        stages = [_uint8(stage) for stage in sequence.stages]  # [B, a, a, C]
        for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            words = prompt.tokens.words if sequence.words is not None else ()
            yield Drawing(
                prompt.caption,
                words,
                seed,
                self.label,
                canvases=canvases[row],
                attention=None if sequence.words is None else sequence.words[row, :, : len(words)].cpu().numpy(),
                boxes=None if sequence.boxes is None else sequence.boxes[row].cpu().numpy(),
                stages=tuple(stage[row] for stage in stages),
                maps=tuple(weights[row, : len(words)].cpu().numpy() for weights in sequence.maps),
            )


def _with_last(sequence: DrawnSequence, images: Tensor, lengths: Sequence[int]) -> DrawnSequence:
    """Append a glimpse that writes `images` [B, C, A, A] over the whole canvas and attends to all words of a caption alike."""

    def append(steps: Tensor, last: Tensor) -> Tensor:
        return torch.cat([steps, last.unsqueeze(1)], dim=1)

    words, boxes, side = sequence.words, sequence.boxes, images.shape[-1]
    if words is not None:
        mask = torch.arange(words.shape[2]) < torch.tensor(lengths)[:, None]
        words = append(words, (mask / mask.sum(dim=1, keepdim=True)).to(words))
    if boxes is not None:
        boxes = append(boxes, boxes.new_tensor([0, 0, side, side]).expand_as(boxes[:, -1]))
    return replace(sequence, canvases=append(sequence.canvases, images), words=words, boxes=boxes)


def _uint8(pictures: Tensor) -> NDArray[np.uint8]:
    """Return pictures [..., C, H, W] in 0..1 as [..., H, W, C] in 0..255."""
    return pictures.mul(255).round().to(torch.uint8).movedim(-3, -1).cpu().numpy()


def _glimpses(first: int, frame: Frame) -> Glimpses:
    words, boxes = (None if each is None else each.float().cpu().numpy() for each in (frame.words, frame.boxes))
    return Glimpses(first, _uint8(frame.pictures.float()), words, boxes)
