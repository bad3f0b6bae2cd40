"""The routes of AttnGAN's released API (eval/main.py), for any model: `/api/v1.0/bird` and `/api/v1.0/birds`.

They answer as they were meant to. The released program put the attention maps between the pictures, so that "medium" and "large" were links
to maps, and "map1" and "map2" to whatever came next. Like it, they draw a new picture at each request and leave out unknown words; unlike
it, they answer with the seed, and take one, so that a picture can be drawn again. A URL is a link into the store, or the picture itself.

FastAPI reads the annotations of the routes, whose limits are those of the settings: no postponed evaluation here.
"""

import io
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, create_model

from cap2im.rendering.attention import attention_figure
from cap2im.rendering.drawing import Drawing
from cap2im.rendering.maps import maps_figure
from cap2im.serve.api import EXAMPLE, LARGEST_SEED, WHOLE, accept, drawn, key_needed, problems
from cap2im.serve.settings import ServeSettings
from cap2im.serve.store import Files

NEW_SEEDS = 2**31  # from which one is drawn for a request that has none
BIRDS = 6  # pictures of one caption that /birds draws
SIZES = ("small", "medium", "large")
MAPS = ("map1", "map2")


class Wanted(BaseModel):
    """What to draw."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"caption": EXAMPLE}]})

    caption: str
    seed: Annotated[int | None, Field(ge=0, le=LARGEST_SEED, description="None draws a new picture each time."), WHOLE] = None
    model: str | None = Field(None, description="A name of GET /v1/models; the first where none is named.")


class Sizes(BaseModel):
    """URLs of one picture, as links or data."""

    small: str
    medium: str
    large: str


class Bird(Sizes):
    """One picture, and where its words were read."""

    map1: str | None = Field(description="Which words were read, where or when; null where the model does not say.")
    map2: str | None
    caption: str
    seed: int
    elapsed: float = Field(description="Seconds, waiting included.")


class Birds(BaseModel):
    """Six pictures; picture k is of seed + k - 1."""

    bird1: Sizes
    bird2: Sizes
    bird3: Sizes
    bird4: Sizes
    bird5: Sizes
    bird6: Sizes
    caption: str
    seed: int
    elapsed: float = Field(description="Seconds, waiting included.")


class OneBird(BaseModel):
    """Answer of `/bird`."""

    bird: Bird


class SixBirds(BaseModel):
    """Answer of `/birds`."""

    bird: Birds


def three_sizes(drawing: Drawing) -> list[Image.Image]:
    """The picture small, medium and large: the last stages of a model that draws in rising sizes, then halves of the smallest there is."""
    pictures = [Image.fromarray(stage.squeeze(-1) if stage.shape[2] == 1 else stage) for stage in drawing.stages[:-1][-2:]]
    pictures.append(drawing.image)
    while len(pictures) < len(SIZES):
        half = (max(1, pictures[0].width // 2), max(1, pictures[0].height // 2))
        pictures.insert(0, pictures[0].resize(half, Image.Resampling.LANCZOS))
    return pictures


def two_maps(drawing: Drawing) -> list[Image.Image | None]:
    """Where the words were read, a figure for each of the last two times; of a model that says only when, that figure; else None."""
    figures: list[Image.Image | None] = [
        maps_figure(replace(drawing, stages=(stage,), maps=(weights,)), scale=1) for stage, weights in drawing.stage_maps[-len(MAPS) :]
    ]
    if not figures and drawing.attention is not None:
        figures.append(attention_figure([drawing], scale=1))
    return [*figures, *[None] * (len(MAPS) - len(figures))]


def _sizes(drawing: Drawing, files: Files) -> dict[str, Any]:
    return {name: _url(picture, files) for name, picture in zip(SIZES, three_sizes(drawing), strict=True)}


def _bird(drawings: list[Drawing], files: Files) -> dict[str, Any]:
    maps = zip(MAPS, two_maps(drawings[0]), strict=True)
    return {**_sizes(drawings[0], files), **{name: None if figure is None else _url(figure, files) for name, figure in maps}}


def _birds(drawings: list[Drawing], files: Files) -> dict[str, Any]:
    return {f"bird{n}": _sizes(drawing, files) for n, drawing in enumerate(drawings, 1)}


def _url(picture: Image.Image, files: Files) -> str:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    file = files.add(stream.getvalue(), "png")
    return file["url"] if "url" in file else f"data:{file['media_type']};base64,{file['base64']}"


def router(settings: ServeSettings) -> APIRouter:
    """The released routes."""
    caption = Annotated[str, Field(min_length=1, max_length=settings.characters)]
    bird_request: Any = create_model("BirdRequest", __base__=Wanted, caption=(caption, ...))
    routes = APIRouter(prefix="/api/v1.0", **key_needed(settings))
    answers: dict[str, Any] = {"status_code": 201, "responses": problems(400, 401, 404, 408, 413, 422, 500, 503, 504, 507)}

    async def answer(
        request: Request, wanted: Wanted, samples: int, shown: Callable[[list[Drawing], Files], dict[str, Any]]
    ) -> JSONResponse:
        start = time.perf_counter()
        seed = secrets.randbelow(NEW_SEEDS) if wanted.seed is None else wanted.seed
        asked = await accept(request, [wanted.caption], samples=samples, seed=seed, model=wanted.model, unknown="skip")
        bird = await drawn(request, asked, lambda results, files: shown(results[0], files))
        told = {"caption": wanted.caption, "seed": seed, "elapsed": round(time.perf_counter() - start, 3)}
        return JSONResponse({"bird": {**bird, **told}}, 201)

    @routes.post("/bird", response_model=OneBird, **answers)
    async def bird(request: Request, wanted: bird_request) -> JSONResponse:
        """Draws a caption once: in three sizes, with two maps of the words that were read."""
        return await answer(request, wanted, 1, _bird)

    @routes.post("/birds", response_model=SixBirds, **answers)
    async def birds(request: Request, wanted: bird_request) -> JSONResponse:
        """Draws a caption six times, each in three sizes."""
        return await answer(request, wanted, BIRDS, _birds)

    return routes
