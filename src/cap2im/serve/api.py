"""The routes under `/v1`: draw, stream a drawing, read a caption, list the models.

FastAPI evaluates the annotations of the routes, whose limits come from the settings: no postponed evaluation here.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import Field, create_model
from pydantic_core import to_json

from cap2im.rendering.drawing import Drawing
from cap2im.rendering.gif import gif
from cap2im.rendering.page import canvas_sheet, page, rounded_attention, rounded_boxes
from cap2im.serve.engine import DrawRequest
from cap2im.serve.requests import accept, check_model, draw, get_engine, key_options, read_in_time
from cap2im.serve.schemas import (
    EVENT_SCHEMA,
    LARGE,
    WHOLE,
    DrawBody,
    DrawResponse,
    Limits,
    Models,
    ReadBody,
    ReadResponse,
    Words,
    problems,
)
from cap2im.serve.settings import ServeSettings
from cap2im.serve.store import Files
from cap2im.serve.stream import DrawStream


def drawing_router(settings: ServeSettings) -> APIRouter:
    """Return the routes that draw. Their schema states the limits."""
    caption = Annotated[str, Field(min_length=1, max_length=settings.characters)]
    captions = Annotated[list[caption], Field(min_length=1, max_length=settings.captions, description="What to draw.")]
    samples = Annotated[int, Field(ge=1, le=settings.samples, description="Pictures per caption."), WHOLE]
    body_model: Any = create_model("DrawRequest", __base__=DrawBody, captions=(captions, ...), samples=(samples, 1))
    routes = APIRouter(prefix="/v1", **key_options(settings))

    async def accept_body(request: Request, body: DrawBody) -> DrawRequest:
        return await accept(request, body.captions, samples=body.samples, seed=body.seed, model=body.model, unknown=body.unknown)

    errors = problems(400, 401, 404, 408, 413, 422, 500, 503, 504)

    @routes.post("/draw", response_model=DrawResponse, responses={**errors, **problems(507)}, name="draw")
    async def draw_captions(request: Request, body: body_model) -> Response:
        """Draws captions."""
        drawing = await accept_body(request, body)
        return Response(await draw(request, drawing, partial(render_response, drawing, body)), media_type="application/json")

    streaming = errors | {200: {"description": "The events.", "content": {DrawStream.media_type: {"itemSchema": EVENT_SCHEMA}}}}

    @routes.post("/draw/stream", response_class=StreamingResponse, responses=streaming)
    async def stream(request: Request, body: body_model) -> Response:
        """Draws captions and sends each glimpse as a server-sent event while it is drawn.

        `start` {model, results: [{caption, words, width, height, glimpses, seeds}]}, then for each result `glimpse` {result, glimpse,
        samples: [{image, attention, box}]} and `drawn` {result, data}, then `end` {}; or `error` {detail}. `steps`, `format` and
        `enlarge` have no effect.
        """
        return DrawStream(get_engine(request), await accept_body(request, body))

    return routes


def model_router(settings: ServeSettings) -> APIRouter:
    """Return the routes about the models, which require no API key."""
    caption = Annotated[str, Field(min_length=1, max_length=settings.characters)]
    body_model: Any = create_model("ReadRequest", __base__=ReadBody, caption=(caption, ...))
    routes = APIRouter(prefix="/v1")
    limits = Limits(captions=settings.captions, samples=settings.samples, characters=settings.characters, pictures=settings.max_pictures)

    @routes.post("/read", response_model=ReadResponse, responses=problems(400, 404, 408, 413, 422, 503, 504))
    async def read(request: Request, body: body_model) -> Response:
        """Splits a caption into a model's words and lists those that it does not know."""
        engine = get_engine(request)
        work = engine.run_reader(engine.read, check_model(engine, body.model), body.caption)
        words, unknown_words = await read_in_time(request, engine, work)
        return JSONResponse({"words": words, "unknown": [{"word": word, "nearest": nearest} for word, nearest in unknown_words]})

    @routes.get("/models", response_model=Models)
    async def models(request: Request) -> Response:
        """Lists the served models and the limits of a request."""
        engine = get_engine(request)
        return JSONResponse({"models": engine.model_cards, "default": engine.default, "limits": limits.model_dump()})

    @routes.get("/models/{name}/words", response_model=Words, responses=problems(404, 422))
    async def words(request: Request, name: str) -> Response:
        """Lists the words that a caption for this model may use, other spellings included."""
        engine = get_engine(request)
        vocabulary = engine.pipeline(check_model(engine, name)).vocabulary
        return JSONResponse({"words": [word for word in vocabulary.numbers if vocabulary.is_plain(word)]})

    return routes


def render_response(drawing: DrawRequest, body: DrawBody, results: Sequence[Sequence[Drawing]], files: Files) -> bytes:
    """Return the JSON document of `POST /v1/draw`."""
    document = {
        "model": drawing.drawer.pipeline.name,
        "results": [
            {
                "caption": caption,
                "words": prompt.tokens.words,
                "page": files.add(page(drawings).encode(), "html") if body.format == "html" else None,
                "drawings": [_picture(each, body, files) for each in drawings],
            }
            for caption, prompt, drawings in zip(body.captions, drawing.prompts, results, strict=True)
        ],
    }
    return to_json(document)


def _picture(drawing: Drawing, body: DrawBody, files: Files) -> dict[str, Any]:
    animated = body.format == "gif"
    height, width = drawing.canvases.shape[1:3]
    scale = max(1, LARGE // max(height, width)) if body.enlarge and not animated else 1
    image = files.add(gif([drawing]), "gif") if animated else files.add(drawing.png(scale), "png")
    steps = None
    if body.steps:
        sheet, columns = canvas_sheet(drawing)
        steps = {
            "glimpses": drawing.glimpses,
            "canvases": files.add(sheet, "png"),
            "columns": columns,
            "attention": rounded_attention(drawing.attention),
            "boxes": rounded_boxes(drawing.boxes),
        }
    return {"seed": drawing.seed, "width": width * scale, "height": height * scale, "image": image, "steps": steps}
