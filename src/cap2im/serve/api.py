"""The routes under `/v1`: drawing, watching a drawing, reading a caption, and what the models are.

FastAPI reads the annotations of the routes, whose limits are those of the settings: no postponed evaluation here.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import ExitStack, aclosing, suppress
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from anyio import to_thread
from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model
from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from cap2im.data.vocabulary import Tokens, Unknown
from cap2im.rendering.drawing import Drawing
from cap2im.rendering.gif import gif
from cap2im.rendering.images import canvas_uri
from cap2im.rendering.page import canvas_sheet, page, page_data, rounded_attention, rounded_boxes
from cap2im.serve.engine import Asked, BrokenError, BusyError, Engine, Places, Seen
from cap2im.serve.settings import ServeSettings
from cap2im.serve.store import Files

LARGEST_SEED = 2**53 - 1  # JavaScript counts no further
PING_SECONDS = 15.0  # between signs of life of a stream that has nothing to tell, for proxies
GONE = 499  # as nginx calls it: nobody is there to read this answer
EXAMPLE = "the digit three is at the top of the digit one"  # to the bundled model; others may know other words
LARGE = 480  # pixels a side: of a picture of 60, an enlarged one has eight times as many
QUICK_PIXELS = 4096  # of all pictures of a request; see `drawn`
# behind the limits of an integer, which to JSON 1.0 is, too
WHOLE = BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value)
T = TypeVar("T")


class ClientLeftError(Exception):
    """The client left."""


# What goes in and out


class Problem(BaseModel):
    """Every answer that is none of the wanted."""

    detail: str = Field(description="What is wrong, in one sentence.")


class File(BaseModel):
    """A file, inline or, where the server has a store, as a link."""

    media_type: str
    base64: str | None = None
    url: str | None = None


class Steps(BaseModel):
    """How a picture was drawn."""

    glimpses: int
    canvases: File = Field(description="A PNG with the canvas after each glimpse, row by row.")
    columns: int = Field(description="Canvases beside each other in it.")
    attention: list[list[float]] | None = Field(description="[glimpse][word] weights.")
    boxes: list[list[float]] | None = Field(description="[glimpse] left, top, right, bottom of the window that was written, in pixels.")


class DrawnPicture(BaseModel):
    """One picture."""

    seed: int
    width: int
    height: int
    image: File
    steps: Steps | None


class Result(BaseModel):
    """All pictures of a caption."""

    caption: str
    words: list[str] = Field(description="The caption as the model read it.")
    page: File | None = Field(description="With format html: a page that needs no network, on which one scrubs through the drawings.")
    drawings: list[DrawnPicture]


class Drawn(BaseModel):
    """What was drawn."""

    model: str
    results: list[Result]


class Stranger(BaseModel):
    """A word that the model does not know."""

    word: str
    nearest: list[str] = Field(description="Known words that are spelled most like it.")


class Read(BaseModel):
    """A caption as a model reads it."""

    words: list[str]
    unknown: list[Stranger]


class ModelCard(BaseModel):
    """A model that draws here."""

    name: str
    kind: str
    description: str
    side: int = Field(description="Pixels of the square canvas.")
    colours: int
    glimpses: int
    reads_words: bool
    words: int = Field(description="How many it knows.")
    examples: list[str]
    sharpener: str | None


class Limits(BaseModel):
    """What a request may ask for."""

    captions: int
    samples: int
    characters: int
    pictures: int = Field(description="Captions times samples.")


class Models(BaseModel):
    """Which models draw here."""

    models: list[ModelCard]
    default: str
    limits: Limits


class Words(BaseModel):
    """A model's vocabulary."""

    words: list[str]


class Wanted(BaseModel):
    """What to draw."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"captions": [EXAMPLE], "seed": 7}]})

    captions: list[str]
    samples: int = 1
    seed: Annotated[
        int, Field(ge=0, le=LARGEST_SEED, description="Sample k of every caption comes from seed + k; the same seed draws the same."), WHOLE
    ] = 0
    model: str | None = Field(None, description="A name of GET /v1/models; the first where none is named.")
    unknown: Literal["error", "skip"] = Field("error", description="Words that the model does not know: refuse the caption, or skip them.")
    steps: bool = Field(False, description="Answer how each picture was drawn, too.")
    format: Literal["png", "gif", "html"] = Field("png", description="gif moves; html adds a page for each caption.")
    enlarge: bool = Field(False, description=f"Enlarge small pictures to at most {LARGE} pixels a side, in squares; not for gif.")


class ToRead(BaseModel):
    """What to read."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"caption": EXAMPLE}]})

    caption: str
    model: str | None = None


EVENT_SCHEMA = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": ["start", "glimpse", "drawn", "end", "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in {
        400: "The request's body is no text.",
        401: "The API key is missing or wrong.",
        404: "There is no such model.",
        408: "The request's body came too slowly.",
        413: "The request's body is too large.",
        422: "The request is wrong: a limit, an unknown word, an unknown key.",
        500: "The model failed.",
        503: "The queue is full, or the store is out of reach; Retry-After says when to try again.",
        504: "The drawing took too long.",
        507: "The store is full.",
    }.items()
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Those of `PROBLEMS` that a route may answer."""
    return {status: PROBLEMS[status] for status in statuses}


# What routes share, here and in other modules


def engine_of(request: Request) -> Engine:
    """Return the engine."""
    engine: Engine = request.app.state.engine
    return engine


def key_needed(settings: ServeSettings) -> dict[str, Any]:
    """Return the arguments of an `APIRouter` whose routes need the API key; none if the server has no key.

    The routes check the key before they read the body, which FastAPI reads before it calls dependencies. The dependency is in the schema.
    """
    if settings.api_key is None:
        return {}
    expected = settings.api_key.get_secret_value().encode()

    class KeyedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def checked(request: Request) -> Response:
                scheme, key = get_authorization_scheme_param(request.headers.get("authorization"))
                if scheme.lower() != "bearer" or not key:
                    text = "this server wants an API key (Authorization: Bearer KEY)"
                    raise HTTPException(401, text, {"WWW-Authenticate": "Bearer"})
                if not secrets.compare_digest(key.encode(), expected):
                    raise HTTPException(401, "the API key is wrong", {"WWW-Authenticate": "Bearer"})
                return await handler(request)

            return checked

    bearer = HTTPBearer(auto_error=False, description="The API key.")
    return {"route_class": KeyedRoute, "dependencies": [Depends(bearer)]}


def known_model(engine: Engine, name: str | None) -> str:
    """A model's name, the default's where none is named."""
    if name is None:
        return engine.default
    if name not in engine.models:
        raise HTTPException(404, f"there is no model {name[:60]!r} here; there is {', '.join(engine.models)}")
    return name


async def accept(
    request: Request, captions: Sequence[str], *, samples: int = 1, seed: int = 0, model: str | None, unknown: Unknown
) -> Asked:
    """What a request wants drawn, checked; see `drawn` and `Engine.watch`."""
    engine = engine_of(request)
    most = engine.settings.pictures
    if len(captions) * samples > most:
        raise HTTPException(
            422, f"captions: {len(captions)} with {samples} samples are more than the {most} pictures that a request may ask for"
        )
    if seed + samples - 1 > LARGEST_SEED:
        raise HTTPException(422, f"seed: {seed} with {samples} samples goes past the largest seed, {LARGEST_SEED}")
    name = known_model(engine, model)
    try:
        if any(engine.pipeline(name).strangers(caption) for caption in captions):  # whose nearest known words take a while to find
            work = engine.run_reader(engine.accept, name, captions, samples, seed, unknown)
            return await within_time(request, engine, work)
        return engine.accept(name, captions, samples, seed, unknown)
    except ValueError as error:
        raise HTTPException(422, str(error)) from None


async def drawn(request: Request, asked: Asked, shown: Callable[[list[list[Drawing]], Files], T], *, quick: bool = False) -> T:
    """What is shown of the drawings of each caption, whose files are kept; a client that leaves frees its places.

    The places are held until the end: a store that is slow shall fill the queue, and not the memory. To show may be so quick that
    another thread would take longer to be asked.
    """
    engine, files = engine_of(request), Files(request.app.state.store)
    with held_places(engine, asked)[0]:
        try:
            drawings = await unless_gone(request.receive, engine.draw(asked), engine.settings.timeout_s)
        except BrokenError as error:
            raise HTTPException(500, str(error)) from None
        except ClientLeftError:
            raise HTTPException(GONE, "the client left") from None
        answer = shown(drawings, files) if quick else await to_thread.run_sync(shown, drawings, files)
        await files.keep()
        return answer


def held_places(engine: Engine, asked: Asked, *, watched: bool = False) -> tuple[ExitStack, Places]:
    """Places for all pictures of a request, until the stack is closed."""
    stack = ExitStack()
    try:
        places = stack.enter_context(engine.places(asked, watched=watched))
    except BusyError as busy:
        raise HTTPException(503, str(busy), {"Retry-After": str(busy.seconds)}) from None
    return stack, places


async def within_time(request: Request, engine: Engine, work: Coroutine[Any, Any, T]) -> T:
    """Await the reading of captions: 503 if too many wait, 504 after the time limit."""
    try:
        return await unless_gone(request.receive, work, engine.settings.timeout_s)
    except BusyError as busy:
        raise HTTPException(503, str(busy), {"Retry-After": str(busy.seconds)}) from None
    except ClientLeftError:
        raise HTTPException(GONE, "the client left") from None


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
    """Awaits work, which is cancelled when the client leaves or time is up."""

    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait({task, gone}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise ClientLeftError
        raise HTTPException(504, f"the drawing took longer than {timeout_s:g} s; ask for fewer pictures or try again later")
    finally:
        task.cancel()
        gone.cancel()


# Answers


def answer(model: str, asked_words: Sequence[Tokens], wanted: Wanted, results: Sequence[Sequence[Drawing]], files: Files) -> bytes:
    """The JSON document of `POST /v1/draw`; takes from a tenth of a millisecond to seconds."""
    document = {
        "model": model,
        "results": [
            {
                "caption": caption,
                "words": tokens.words,
                "page": files.add(page(drawings).encode(), "html") if wanted.format == "html" else None,
                "drawings": [_drawn_picture(drawing, wanted, files) for drawing in drawings],
            }
            for caption, tokens, drawings in zip(wanted.captions, asked_words, results, strict=True)
        ],
    }
    return to_json(document)  # in a third of the time that json takes


def _drawn_picture(drawing: Drawing, wanted: Wanted, files: Files) -> dict[str, Any]:
    moves = wanted.format == "gif"
    height, width = drawing.canvases.shape[1:3]
    scale = max(1, LARGE // max(height, width)) if wanted.enlarge and not moves else 1
    image = files.add(gif([drawing]), "gif") if moves else files.add(drawing.png(scale), "png")
    steps = None
    if wanted.steps:
        sheet, columns = canvas_sheet(drawing)
        steps = {
            "glimpses": drawing.glimpses,
            "canvases": files.add(sheet, "png"),
            "columns": columns,
            "attention": rounded_attention(drawing.attention),
            "boxes": rounded_boxes(drawing.boxes),
        }
    return {"seed": drawing.seed, "width": width * scale, "height": height * scale, "image": image, "steps": steps}


class Events(StreamingResponse):
    """A stream of events that holds places until it ends, and ends when its client leaves."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], held: ExitStack) -> None:
        super().__init__(events, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held, suppress(ClientLeftError):
            await unless_gone(receive, super().__call__(scope, receive, send))


def _event(name: str, data: Any) -> bytes:
    return format_sse_event(event=name, data_str=json.dumps(data, separators=(",", ":"), allow_nan=False))


def _news(told: Seen | tuple[int, list[Drawing]]) -> bytes:
    """The event of a glimpse, or of a caption whose drawings are finished."""
    if not isinstance(told, Seen):
        result, drawings = told
        return _event("drawn", {"result": result, "data": page_data(drawings)})
    attention, boxes = rounded_attention(told.words), rounded_boxes(told.boxes)
    samples = [
        {
            "image": canvas_uri(canvas),
            "attention": None if attention is None else attention[k],
            "box": None if boxes is None else boxes[k],
        }
        for k, canvas in enumerate(told.canvases)
    ]
    return _event("glimpse", {"result": told.result, "glimpse": told.glimpse, "samples": samples})


async def events(engine: Engine, asked: Asked, places: Places) -> AsyncIterator[bytes]:
    """Server-sent events: start, glimpse and drawn as they come, end; or error."""
    pipeline = asked.drawer.pipeline
    side, glimpses = pipeline.model.config.side, pipeline.glimpses
    seeds = [asked.seed + k for k in range(asked.samples)]
    results = [
        {"caption": caption, "words": tokens.words, "width": side, "height": side, "glimpses": glimpses, "seeds": seeds}
        for caption, tokens in zip(asked.captions, asked.tokens, strict=True)
    ]
    yield _event("start", {"model": pipeline.name, "results": results})
    loop = asyncio.get_running_loop()
    deadline = loop.time() + engine.settings.timeout_s
    async with aclosing(engine.watch(asked, places)) as watched:
        while True:
            news = asyncio.ensure_future(anext(watched, None))
            try:
                while not news.done() and (left := deadline - loop.time()) > 0:
                    if not (await asyncio.wait({news}, timeout=min(PING_SECONDS, left)))[0] and left > PING_SECONDS:
                        yield KEEPALIVE_COMMENT
                if not news.done():
                    yield _event("error", {"detail": f"the drawing took longer than {engine.settings.timeout_s:g} s"})
                    return
                told = news.result()
            except BrokenError as error:
                yield _event("error", {"detail": str(error)})
                return
            finally:
                news.cancel()
                await asyncio.wait({news})
            if told is None:
                break
            yield await to_thread.run_sync(_news, told)
    yield _event("end", {})


# Routes


def drawing_router(settings: ServeSettings) -> APIRouter:
    """Return the routes under `/v1` that draw; their schema states the limits."""
    caption = Annotated[str, Field(min_length=1, max_length=settings.characters)]
    captions = Annotated[list[caption], Field(min_length=1, max_length=settings.captions, description="What to draw.")]
    samples = Annotated[int, Field(ge=1, le=settings.samples, description="Pictures of each caption."), WHOLE]
    draw_request: Any = create_model("DrawRequest", __base__=Wanted, captions=(captions, ...), samples=(samples, 1))
    routes = APIRouter(prefix="/v1", **key_needed(settings))

    async def accept_body(request: Request, wanted: Wanted) -> Asked:
        return await accept(request, wanted.captions, samples=wanted.samples, seed=wanted.seed, model=wanted.model, unknown=wanted.unknown)

    drawing = problems(400, 401, 404, 408, 413, 422, 500, 503, 504)

    @routes.post("/draw", response_model=Drawn, responses={**drawing, **problems(507)})
    async def draw(request: Request, wanted: draw_request) -> Response:
        """Draws captions."""
        asked = await accept_body(request, wanted)
        quick = wanted.format == "png" and not wanted.steps and asked.pictures * asked.drawer.pipeline.model.config.side**2 <= QUICK_PIXELS
        content = await drawn(request, asked, partial(answer, asked.drawer.pipeline.name, asked.tokens, wanted), quick=quick)
        return Response(content, media_type="application/json")

    streaming = drawing | {200: {"description": "The events.", "content": {Events.media_type: {"itemSchema": EVENT_SCHEMA}}}}

    @routes.post("/draw/stream", response_class=StreamingResponse, responses=streaming)
    async def stream(request: Request, wanted: draw_request) -> Response:
        """Draws captions and tells every glimpse as it is drawn, as server-sent events.

        `start` {model, results: [{caption, words, width, height, glimpses, seeds}]}, then for each result `glimpse` {result, glimpse,
        samples: [{image, attention, box}]} and `drawn` {result, data}, then `end` {}; or `error` {detail}. `steps` and `format` do
        nothing here.
        """
        engine = engine_of(request)
        asked = await accept_body(request, wanted)
        held, places = held_places(engine, asked, watched=True)
        return Events(events(engine, asked, places), held)

    return routes


def model_router(settings: ServeSettings) -> APIRouter:
    """Return the routes under `/v1` about the models, which need no API key."""
    caption = Annotated[str, Field(min_length=1, max_length=settings.characters)]
    read_request: Any = create_model("ReadRequest", __base__=ToRead, caption=(caption, ...))
    routes = APIRouter(prefix="/v1")
    limits = Limits(captions=settings.captions, samples=settings.samples, characters=settings.characters, pictures=settings.pictures)

    @routes.post("/read", response_model=Read, responses=problems(400, 404, 408, 413, 422, 503, 504))
    async def read(request: Request, wanted: read_request) -> Response:
        """Says how a model reads a caption, and which of its words it does not know."""
        engine = engine_of(request)
        work = engine.run_reader(engine.read, known_model(engine, wanted.model), wanted.caption)
        words, strangers = await within_time(request, engine, work)
        return JSONResponse({"words": words, "unknown": [{"word": word, "nearest": nearest} for word, nearest in strangers]})

    @routes.get("/models", response_model=Models)
    async def models(request: Request) -> Response:
        """The models that draw here, and what a request may ask for."""
        engine = engine_of(request)
        return JSONResponse({"models": engine.described, "default": engine.default, "limits": limits.model_dump()})

    @routes.get("/models/{name}/words", response_model=Words, responses=problems(404, 422))
    async def words(request: Request, name: str) -> Response:
        """The words that a caption may say to a model, other spellings included."""
        engine = engine_of(request)
        vocabulary = engine.pipeline(known_model(engine, name)).vocabulary
        return JSONResponse({"words": [word for word in vocabulary.numbers if vocabulary.sayable(word)]})

    return routes
