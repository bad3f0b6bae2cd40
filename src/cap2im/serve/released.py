"""The routes of AttnGAN's released API (eval/main.py), for any model: `/api/v1.0/bird` and `/api/v1.0/birds`.

The released program listed the attention maps between the pictures, so that its "medium" and "large" linked to maps; here every key links
to what it names. As in the release, each request draws a new picture and skips unknown words. New: the response contains the seed, and a
request may give one to draw a picture again. A URL is a link into the store, or a data URI.

FastAPI evaluates the annotations of the routes, whose limits come from the settings: no postponed evaluation here.
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
from cap2im.serve.requests import accept, draw, key_options
from cap2im.serve.schemas import EXAMPLE, LARGEST_SEED, WHOLE, problems
from cap2im.serve.settings import ServeSettings
from cap2im.serve.store import Files

NEW_SEEDS = 2**31  # range of the random seed of a request without one
BIRDS = 6  # pictures per request to /birds
SIZES = ("small", "medium", "large")
MAPS = ("map1", "map2")


class BirdBody(BaseModel):
    """A caption to draw."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"caption": EXAMPLE}]})

    caption: str
    seed: Annotated[int | None, Field(ge=0, le=LARGEST_SEED, description="The default draws a new picture each time."), WHOLE] = None
    model: str | None = Field(None, description="A name of GET /v1/models; the default is the first.")


class Sizes(BaseModel):
    """URLs of one picture: links, or data URIs."""

    small: str
    medium: str
    large: str


class Bird(Sizes):
    """One picture and its attention maps."""

    map1: str | None = Field(description="Attention over words, by place or by glimpse; null for a model without attention.")
    map2: str | None
    caption: str
    seed: int
    elapsed: float = Field(description="Seconds, including the time in the queue.")


class Birds(BaseModel):
    """Six pictures; picture k uses seed + k - 1."""

    bird1: Sizes
    bird2: Sizes
    bird3: Sizes
    bird4: Sizes
    bird5: Sizes
    bird6: Sizes
    caption: str
    seed: int
    elapsed: float = Field(description="Seconds, including the time in the queue.")


class OneBird(BaseModel):
    """Response of `/bird`."""

    bird: Bird


class SixBirds(BaseModel):
    """Response of `/birds`."""

    bird: Birds


def three_sizes(drawing: Drawing) -> list[Image.Image]:
    """Return the picture small, medium and large: the last stages of a multi-stage model, and halves of the smallest stage."""
    pictures = [Image.fromarray(stage.squeeze(-1) if stage.shape[2] == 1 else stage) for stage in drawing.stages[:-1][-2:]]
    pictures.append(drawing.image)
    while len(pictures) < len(SIZES):
        half = (max(1, pictures[0].width // 2), max(1, pictures[0].height // 2))
        pictures.insert(0, pictures[0].resize(half, Image.Resampling.LANCZOS))
    return pictures


def two_maps(drawing: Drawing) -> list[Image.Image | None]:
    """Return figures of the last two attention maps; of a model without maps its attention over glimpses; None for missing ones."""
    figures: list[Image.Image | None] = [
        maps_figure(replace(drawing, stages=(stage,), maps=(weights,)), scale=1) for stage, weights in drawing.stage_maps[-len(MAPS) :]
    ]
    if not figures and drawing.attention is not None:
        figures.append(attention_figure([drawing]))
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
    """Return the released routes."""
    caption = Annotated[str, Field(min_length=1, max_length=settings.characters)]
    bird_request: Any = create_model("BirdRequest", __base__=BirdBody, caption=(caption, ...))
    routes = APIRouter(prefix="/api/v1.0", **key_options(settings))
    options: dict[str, Any] = {"status_code": 201, "responses": problems(400, 401, 404, 408, 413, 422, 500, 503, 504, 507)}

    async def respond(
        request: Request, body: BirdBody, samples: int, render: Callable[[list[Drawing], Files], dict[str, Any]]
    ) -> JSONResponse:
        start = time.perf_counter()
        seed = secrets.randbelow(NEW_SEEDS) if body.seed is None else body.seed
        drawing = await accept(request, [body.caption], samples=samples, seed=seed, model=body.model, unknown="skip")
        urls = await draw(request, drawing, lambda results, files: render(results[0], files))
        elapsed = round(time.perf_counter() - start, 3)
        return JSONResponse({"bird": {**urls, "caption": body.caption, "seed": seed, "elapsed": elapsed}}, 201)

    @routes.post("/bird", response_model=OneBird, **options)
    async def bird(request: Request, body: bird_request) -> JSONResponse:
        """Draws a caption once, in three sizes with two attention maps."""
        return await respond(request, body, 1, _bird)

    @routes.post("/birds", response_model=SixBirds, **options)
    async def birds(request: Request, body: bird_request) -> JSONResponse:
        """Draws a caption six times, each in three sizes."""
        return await respond(request, body, BIRDS, _birds)

    return routes
