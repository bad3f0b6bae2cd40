"""alignDRAW, the conditional DRAW network with attention over words; its variants without attention; and DRAW (unconditional).

Source: alignDRAW (arXiv:1511.02793), sections 3.2-3.4, equations 1-15 and table 2; DRAW (arXiv:1502.04623).

Every variant keeps what the released program adds to the paper: a gamma that multiplies patches when reading and divides them when writing
(DRAW eq. 27, 29); a bias inside the prior's tanh; a posterior whose linear layer gives log sigma^2; LSTM cells that start at zero.
`filterbank` and `text` describe the differences that `variant` selects; "port" also halves the prior's log sigma.

Shapes: B batch, L words, T glimpses, D features, Z latent, P patch side, A canvas side (H = W), C colours.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from cap2im.models.filterbank import PARAMETERS, Variant, filter_bank, filter_offsets, first_pixel
from cap2im.models.interface import Bound, DrawnSequence, Frame, Gaussian, LikelihoodModel, standard_normal
from cap2im.models.precision import cast_linear
from cap2im.models.recurrence import unroll
from cap2im.models.text import Alignment, AlignmentPass, BidirectionalLanguageModel, EncodedText, lstm_cell


class DRAWConfig(BaseModel):
    """The sizes of the network. The defaults are the paper's for MNIST with captions (table 2, appendix B)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    conditioning: Literal["align", "mean", "sentence", "none"] = Field(
        "align",
        description='captions: "align" by attention to words, "mean" by their mean, "sentence" by a given vector, "none" not at all',
    )
    sentence_features: int = Field(4800, ge=1, description="width of the sentence vector; 4,800 of combine-skip")
    side: int = Field(60, ge=4, le=1024, description="pixels of the square canvas")
    colours: Literal[1, 3] = Field(1, description="1 is grey, 3 is RGB")
    glimpses: int = Field(32, ge=1, le=1024, description="T, steps of a drawing")
    read_patch: int = Field(8, ge=2, description="pixels, p of the read operator")
    write_patch: int = Field(8, ge=2, description="pixels, p of the write operator")
    inference_units: int = Field(300, ge=1, description="width of h_infer")
    generative_units: int = Field(300, ge=1, description="width of h_gen")
    latent: int = Field(150, ge=1, description="Z, dimension of z_t")
    vocabulary_size: int = Field(22, ge=1, description="number of words; a prepared dataset decides it")
    language_units: int = Field(128, ge=1, description="LSTM units of one direction of the language model")
    language_dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the words' features")
    language_forgetting: float = Field(0.0, ge=0, lt=1, description="probability that each direction restarts at a word, in training")
    language_window: int = Field(0, ge=0, description="words that a direction reads for the state of one; 0 is the whole caption")
    align_features: int = Field(512, ge=1, description="l, width of the alignment")
    align_noise: float = Field(0.0, ge=0, description="scale of the Gumbel noise on alignment scores, in training")
    blank: float = Field(0.0, description="initial logit of the canvas; the release has -10 (black) for MNIST and 0 for COCO")
    initialisation: Literal["paper", "scaled"] = Field(
        "paper", description='of the weights; "scaled" divides by the fan-in, see `initialise`'
    )
    window_variation: float = Field(0.1, ge=0, description='scale of the initial weights of windows, with initialisation "scaled"')
    recurrent_gain: float = Field(
        1.0, gt=0, description='scale of the initial recurrent weights of the generative LSTM, with initialisation "scaled"'
    )
    variant: Variant = Field("paper", description='"released" follows the authors\' code, "port" a PyTorch port of it')

    @property
    def reads_words(self) -> bool:
        """Whether captions enter as words, through the language model."""
        return self.conditioning in ("align", "mean")

    @property
    def noise_shape(self) -> tuple[int, int]:
        """(T, Z) of one image's noise."""
        return self.glimpses, self.latent

    @property
    def text_features(self) -> int:
        """Width of the encoded caption."""
        return {"align": 2 * self.language_units, "mean": 2 * self.language_units, "sentence": self.sentence_features, "none": 0}[
            self.conditioning
        ]


@dataclass(frozen=True)
class GenerativeState:
    """State of the generative side: the canvas before the sigmoid [B, C, A, A], h_gen and its cell [B, D] each."""

    canvas: Tensor
    hidden: Tensor
    cell: Tensor


@dataclass(frozen=True)
class InferenceState:
    """State of the inference LSTM: h_infer and its cell [B, D] each."""

    hidden: Tensor
    cell: Tensor


@dataclass(frozen=True)
class Glimpse:
    """The visible part of one step: word weights [B, L], None without attention, and raw write window parameters [B, 5]."""

    words: Tensor | None
    write_window: Tensor


GlimpsesDrawn = tuple[list[tuple[GenerativeState, Glimpse]], Tensor]  # the result of `DRAW.draw_glimpses`
COMPILED_GLIMPSES = 2  # in one compiled function: more are a little faster and compile for longer
COMPILED_SAMPLING = 4  # likewise of sampling, at most
STEP_LAYERS = ("read_window", "inference", "posterior", "generative", "write_window", "patch")


class StepContext:
    """What a step needs besides the states: the encoded captions and the layers. All steps of one pass over a batch can share it.

    A constant sentence vector is multiplied with its weights [B, 4D] once, not at every step.
    """

    def __init__(self, model: DRAW, text: EncodedText | None) -> None:
        self.layers: dict[str, Callable[[Tensor], Tensor]] = {name: getattr(model, name) for name in STEP_LAYERS}
        self.alignment: AlignmentPass | None = None
        self.sentence: Tensor | None = None
        if text is not None and model.config.conditioning == "align":
            self.alignment = model.alignment.begin(text)
            self.layers["alignment"] = model.alignment.state
        elif text is not None:
            self.sentence = model.sentence(text.sentence).to(text.sentence.dtype)

    def cast(self) -> StepContext:
        """Return a context for all steps of sampling, whose weights are cast to autocast's type once."""
        context = copy.copy(self)
        context.layers = {name: cast_linear(layer) for name, layer in self.layers.items() if isinstance(layer, nn.Linear)}
        return context

    def unroll(self, steps: int, batch: int) -> list[StepContext]:
        """Return a context for each step of a pass, whose weight gradients are made together."""
        unrolled = {name: unroll(layer, steps, batch) for name, layer in self.layers.items() if isinstance(layer, nn.Linear)}
        contexts = [copy.copy(self) for _ in range(steps)]
        for step, context in enumerate(contexts):
            context.layers = {name: layers[step] for name, layers in unrolled.items()}
        return contexts


class DRAW(LikelihoodModel):
    """The (conditional) DRAW network.

    One step of drawing is `generate`; one step of inference is `infer` followed by `generate`. `bound` and `sample` unroll them.
    """

    config: DRAWConfig
    glimpses_at_once = 1  # in one call of `infer_and_generate`
    sampled_at_once = 1  # glimpses in one call of `draw_glimpses`

    def __init__(self, config: DRAWConfig) -> None:
        super().__init__()
        self.config = c = config
        conditional = c.conditioning != "none"
        attended = c.text_features if c.conditioning == "align" else 0
        read = 2 * c.colours * c.read_patch**2
        if c.reads_words:
            self.language = BidirectionalLanguageModel(
                c.vocabulary_size, c.language_units, c.variant, c.language_dropout, c.language_forgetting, c.language_window
            )
        if c.conditioning == "align":
            self.alignment = Alignment(c.text_features, c.generative_units, c.align_features, c.align_noise)
        elif conditional:
            self.sentence = nn.Linear(c.text_features, 4 * c.generative_units, bias=False)  # s of eq. 3, the same at every step
        if conditional:
            self.prior = nn.Linear(c.generative_units, 2 * c.latent)  # eq. 1; mean and log sigma side by side
        self.read_window = nn.Linear(c.generative_units, PARAMETERS)
        self.write_window = nn.Linear(c.generative_units, PARAMETERS)
        self.patch = nn.Linear(c.generative_units, c.colours * c.write_patch**2)  # K of eq. 8
        self.inference = nn.Linear(read + c.generative_units + c.inference_units, 4 * c.inference_units)  # eq. 12
        self.posterior = nn.Linear(c.inference_units, 2 * c.latent)  # eq. 13; mean and log sigma^2 side by side
        self.generative = nn.Linear(c.latent + attended + c.generative_units, 4 * c.generative_units)  # eq. 3
        if conditional:  # plain DRAW starts at zeros that are not learned
            self.start_canvas = nn.Parameter(torch.zeros(1, c.colours, c.side, c.side))
            self.start_generative = nn.Parameter(torch.zeros(1, c.generative_units))
            self.start_inference = nn.Parameter(torch.zeros(1, c.inference_units))
        initialise(self)

    def compile_steps(self) -> None:
        """Compile the steps of training with torch.compile, a few glimpses as one function; results change within rounding."""
        self.glimpses_at_once = COMPILED_GLIMPSES
        self.infer_and_generate = torch.compile(self.infer_and_generate)  # type: ignore[method-assign]

    def compile_sampling(self) -> None:
        """Compile the steps of sampling with torch.compile, a few glimpses as one function; results change within rounding.

        The first batch of one picture and the first batch of several are compiled, each for captions of any length.
        """
        self.sampled_at_once = max(n for n in range(1, COMPILED_SAMPLING + 1) if self.glimpses % n == 0)
        torch._dynamo.config.recompile_limit += 2  # of the functions that all models have together
        compiled = torch.compile(self.draw_glimpses)

        def draw_glimpses(latent: Tensor, noise: Tensor, state: GenerativeState, context: StepContext) -> GlimpsesDrawn:
            if context.alignment is not None:
                text = context.alignment.text
                for words in (context.alignment.doubled_words, text.words, text.mask):  # [B, L, ...]
                    torch._dynamo.maybe_mark_dynamic(words, 1)
            return compiled(latent, noise, state, context)

        self.draw_glimpses = draw_glimpses  # type: ignore[method-assign]

    @property
    def observation(self) -> str:
        """Section 3.3: each pixel is Bernoulli, with the sigmoid of the canvas as its mean."""
        return "bernoulli"

    # The states before the first glimpse; of the form of later ones, for which torch.compile would make another function

    def initial_generative_state(self, batch: int) -> GenerativeState:
        """Return the learned canvas and h_gen, zeros in plain DRAW, and a cell of zeros."""
        c = self.config
        zeros = self.patch.weight.new_zeros
        if c.conditioning == "none":
            canvas, hidden = zeros(batch, c.colours, c.side, c.side), zeros(batch, c.generative_units)
        else:
            canvas, hidden = self.start_canvas.repeat(batch, 1, 1, 1), self.start_generative.repeat(batch, 1)
        return GenerativeState(canvas, hidden, zeros(batch, c.generative_units, requires_grad=torch.is_grad_enabled()))

    def initial_inference_state(self, batch: int) -> InferenceState:
        """Return the learned h_infer, zeros in plain DRAW, and a cell of zeros."""
        zeros = self.patch.weight.new_zeros(batch, self.config.inference_units, requires_grad=torch.is_grad_enabled())
        return InferenceState(zeros if self.config.conditioning == "none" else self.start_inference.repeat(batch, 1), zeros)

    # One step

    def read(self, images: Tensor, state: GenerativeState, context: StepContext) -> tuple[Tensor, Tensor]:
        """Return r_t [B, 2*C*P*P] of the image and the error image x - sigmoid(c), and the read window [B, 5] (eq. 10-11).

        Reading is linear: the error's patch is the difference of two patches.
        """
        c = self.config
        window = context.layers["read_window"](state.hidden)  # [B, 5]
        bank = filter_bank(window, c.read_patch, c.side, c.variant)
        image = bank.read(images)  # [B, C, P, P]
        error = image - bank.read(state.canvas.sigmoid())
        return (torch.cat([image, error], dim=1) * bank.gamma.unsqueeze(1)).flatten(1), window

    def infer(
        self, images: Tensor, state: GenerativeState, inference: InferenceState, context: StepContext
    ) -> tuple[Gaussian, InferenceState, Tensor]:
        """Return the posterior of z_t, the next inference state and the read window (eq. 10-13)."""
        patches, window = self.read(images, state, context)
        inputs = torch.cat([patches, state.hidden, inference.hidden], dim=1)
        inference = InferenceState(*lstm_cell(context.layers["inference"](inputs), inference.cell))
        mean, log_variance = context.layers["posterior"](inference.hidden).chunk(2, dim=1)  # [B, Z] each
        return Gaussian(mean, 0.5 * log_variance), inference, window

    def generate(self, latent: Tensor, state: GenerativeState, context: StepContext) -> tuple[GenerativeState, Glimpse]:
        """Draw one glimpse from z_t [B, Z] (eq. 2-4)."""
        c = self.config
        inputs, words = [latent], None
        if context.alignment is not None:
            sentence, words = context.alignment(context.layers["alignment"](state.hidden))
            inputs.append(sentence)
        preactivation = context.layers["generative"](torch.cat([*inputs, state.hidden], dim=1))
        if context.sentence is not None:
            preactivation = preactivation + context.sentence
        hidden, cell = lstm_cell(preactivation, state.cell)
        window = context.layers["write_window"](hidden)  # [B, 5]
        bank = filter_bank(window, c.write_patch, c.side, c.variant)
        patch = context.layers["patch"](hidden).view(-1, c.colours, c.write_patch, c.write_patch) / bank.gamma.unsqueeze(1)
        return GenerativeState(state.canvas + bank.write(patch), hidden, cell), Glimpse(words, window)

    def infer_and_generate(
        self,
        images: Tensor,
        noise: Sequence[Tensor],
        state: GenerativeState,
        inference: InferenceState,
        contexts: Sequence[StepContext],
    ) -> tuple[list[tuple[Tensor, Gaussian]], GenerativeState, InferenceState]:
        """Make a glimpse for each noise [B, Z]; return h_gen before each with the posterior of its latent, and the states after all."""
        glimpses = []
        for eps, context in zip(noise, contexts, strict=True):
            posterior, inference, _ = self.infer(images, state, inference, context)
            glimpses.append((state.hidden, posterior))
            state, _ = self.generate(posterior.sample(eps), state, context)
        return glimpses, state, inference

    def draw_glimpses(self, latent: Tensor, noise: Tensor, state: GenerativeState, context: StepContext) -> GlimpsesDrawn:
        """Draw a glimpse from z_t [B, Z] and further ones from the prior; noise [B, N, Z] is of the latents after each of the N glimpses.

        Returns:
            the state after each glimpse with the glimpse, and the next latent [B, Z].
        """
        steps = []
        for eps in noise.unbind(1):
            state, glimpse = self.generate(latent, state, context)
            latent = self.latent_prior(state.hidden).sample(eps)
            steps.append((state, glimpse))
        return steps, latent

    def latent_prior(self, hidden: Tensor) -> Gaussian:
        """Return P(Z_t | Z_1..t-1) for t > 1 from h_gen of the step before (eq. 1)."""
        if self.config.conditioning == "none":
            return standard_normal(hidden, self.config.latent)
        mean, log_sigma = self.prior(hidden).to(hidden.dtype).tanh().chunk(2, dim=-1)
        return Gaussian(mean, 0.5 * log_sigma if self.config.variant == "port" else log_sigma)

    # The unrolled network

    def bound(self, images: Tensor, text: EncodedText | None, noise: Tensor) -> Bound:
        """Return the lower bound of each image from one posterior sample (eq. 14)."""
        state = self.initial_generative_state(len(images))
        inference = self.initial_inference_state(len(images))
        context, steps = StepContext(self, text), noise.unbind(1)
        contexts = context.unroll(len(steps), len(images)) if torch.is_grad_enabled() else [context] * len(steps)
        hidden, means, log_sigmas = [], [], []
        with torch.autocast(images.device.type, enabled=False):  # layers keep autocast's type; windows and canvases stay in fp32
            for first in range(0, len(steps), self.glimpses_at_once):
                some = slice(first, first + self.glimpses_at_once)
                glimpses, state, inference = self.infer_and_generate(images, steps[some], state, inference, contexts[some])
                for before, posterior in glimpses:
                    hidden.append(before)
                    means.append(posterior.mean)
                    log_sigmas.append(posterior.log_sigma)
            posterior = Gaussian(torch.stack(means, dim=1), torch.stack(log_sigmas, dim=1))  # [B, T, Z]
            prior = self.prior_sequence(torch.stack(hidden, dim=1))
            kl = posterior.kl(prior)  # [B, T]
            log_ratio = None if torch.is_grad_enabled() else posterior.log_ratio(prior, noise).sum(dim=1)
            pictures = state.canvas.detach().sigmoid()
        reconstruction = F.binary_cross_entropy_with_logits(state.canvas, images, reduction="none")  # [B, C, A, A]
        return Bound(reconstruction.flatten(1).sum(dim=1), kl, log_ratio, pictures)

    def prior_sequence(self, hidden: Tensor) -> Gaussian:
        """Return the priors of z_1..z_T [B, T, Z] from the states before each step [B, T, D]; the first is N(0, I)."""
        first = standard_normal(hidden[:, :1], self.config.latent)
        later = self.latent_prior(hidden[:, 1:])
        return Gaussian(torch.cat([first.mean, later.mean], 1), torch.cat([first.log_sigma, later.log_sigma], 1))

    @property
    def glimpses(self) -> int:
        """T, number of glimpses."""
        return self.config.glimpses

    def sample_steps(self, text: EncodedText | None, noise: Tensor) -> Iterator[tuple[GenerativeState, Glimpse]]:
        """Draw from the prior, one glimpse at a time (section 3.4); noise is [B, T, Z] standard normal."""
        state = self.initial_generative_state(len(noise))
        context = StepContext(self, text).cast()
        latent = _contiguous(noise[:, 0])  # the first prior is N(0, I)
        for following in noise.roll(-1, dims=1).split(self.sampled_at_once, dim=1):
            steps, latent = self.draw_glimpses(latent, _contiguous(following), state, context)
            yield from steps
            state, _ = steps[-1]

    def sample(self, text: EncodedText | None, noise: Tensor) -> DrawnSequence:
        """Draw from the prior and keep every canvas; noise is [B, T, Z] standard normal."""
        return self._sequence(self.sample_steps(text, noise))

    def sample_streaming(self, text: EncodedText | None, noise: Tensor, on_frame: Callable[[Frame], None]) -> DrawnSequence:
        """Do as `sample`, and call `on_frame` after every glimpse."""

        def reported() -> Iterator[tuple[GenerativeState, Glimpse]]:
            for state, glimpse in self.sample_steps(text, noise):
                on_frame(Frame(state.canvas.sigmoid(), glimpse.words, self.write_boxes(glimpse.write_window)))
                yield state, glimpse

        return self._sequence(reported())

    def _sequence(self, drawing: Iterable[tuple[GenerativeState, Glimpse]]) -> DrawnSequence:
        steps = list(drawing)
        words = [glimpse.words for _, glimpse in steps if glimpse.words is not None]
        return DrawnSequence(
            canvases=torch.stack([state.canvas for state, _ in steps], dim=1),
            words=torch.stack(words, dim=1) if words else None,
            boxes=self.write_boxes(torch.stack([glimpse.write_window for _, glimpse in steps], dim=1)),
        )

    def sample_images(self, text: EncodedText | None, noise: Tensor) -> Tensor:
        """Return `sample(text, noise).images`, and keep one canvas at a time."""
        for state, _ in self.sample_steps(text, noise):
            last = state
        return last.canvas.sigmoid()

    def write_boxes(self, windows: Tensor) -> Tensor:
        """Return the boxes [..., 4] of raw window parameters [..., 5]: left, top, right, bottom in pixels from the canvas' corner.

        A box spans the outermost filter centres and half a stride around them; it may extend beyond the canvas.
        """
        c = self.config
        bank = filter_bank(windows.flatten(0, -2), c.write_patch, c.side, c.variant)
        offsets = filter_offsets(c.write_patch, c.variant)
        shift = 0.5 - first_pixel(c.variant)  # from a pixel's number to the distance of its middle from the corner
        low = bank.centre + bank.stride[:, None] * (offsets[0] - 0.5) + shift  # [N, 2] left, top
        high = bank.centre + bank.stride[:, None] * (offsets[-1] + 0.5) + shift
        return torch.cat([low, high], dim=1).view(*windows.shape[:-1], 4)


def _contiguous(tensor: Tensor) -> Tensor:
    """Return a contiguous copy: torch.compile makes another function for other strides or offsets, also of a single row."""
    return tensor.clone(memory_format=torch.contiguous_format)


def initialise(model: DRAW) -> None:
    """Set the initial weights; the canvas starts at `blank` in both ways.

    "paper" draws every parameter from N(0, 0.01^2) (appendix B); with variant "released", biases and initial states are 0.

    "scaled" draws weights from N(0, 1 / fan-in), so that latents matter from the first update on, and changes five things:

    - The forget gates of inference and generation have a bias of 1.
    - Recurrent weights of the language model are small, so that a word's state depends on the word more than on its neighbours.
    - Neighbouring filters overlap (sigma is half a stride of the neutral grid), so that gradients reach every pixel.
    - Windows start at the whole canvas; `window_variation` says how much they depend on the state.
    - `recurrent_gain` scales the recurrent weights of generation. Above 1, states and windows differ more between glimpses.
    """
    c = model.config
    for name, parameter in model.named_parameters():
        if c.initialisation == "paper":
            exact = c.variant == "released" and (name.endswith("bias") or "start" in name)
            nn.init.zeros_(parameter) if exact else nn.init.normal_(parameter, std=0.01)
        elif parameter.dim() == 1 or "start" in name:
            nn.init.zeros_(parameter)
        elif name.endswith("words.weight"):  # rows of a one-hot input: fan-in is 1
            nn.init.normal_(parameter)
        elif name.endswith("recurrent.weight"):
            nn.init.normal_(parameter, std=0.01)
        else:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    with torch.no_grad():
        if c.conditioning != "none":
            model.start_canvas.add_(c.blank)
        if c.initialisation == "paper":
            return
        for name, layer in model.named_modules():
            if name in ("inference", "generative"):
                layer.bias.chunk(4)[1].fill_(1.0)  # forget gate
        model.generative.weight[:, -c.generative_units :].mul_(c.recurrent_gain)
        if c.conditioning == "align":
            nn.init.normal_(model.alignment.score, std=c.align_features**-0.5)
        for layer, patch in ((model.read_window, c.read_patch), (model.write_window, c.write_patch)):
            layer.weight.mul_(c.window_variation)
            layer.bias[3] = 2 * math.log(0.5 * (c.side - 1) / (patch - 1))  # log sigma^2
