"""Requests and responses of the API, as its OpenAPI schema shows them.

Annotations are evaluated here because the limits of some models come from the settings.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

LARGEST_SEED = 2**53 - 1  # the largest integer that JavaScript represents exactly
EXAMPLE = "the digit three is at the top of the digit one"  # for the default model; the vocabulary of others may lack its words
LARGE = 480  # pixels a side, of an enlarged picture
# accepts 1.0 as an integer, as JSON Schema does; stands behind the limits of the integer
WHOLE = BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value)


class Problem(BaseModel):
    """The body of every error response."""

    detail: str = Field(description="What is wrong, in one sentence.")


class File(BaseModel):
    """A file: inline as base64, or as a link if the server has a store."""

    media_type: str
    base64: str | None = None
    url: str | None = None


class Steps(BaseModel):
    """How a picture was drawn."""

    glimpses: int
    canvases: File = Field(description="A PNG with the canvas after each glimpse, row by row.")
    columns: int = Field(description="Number of canvases in a row of that PNG.")
    attention: list[list[float]] | None = Field(description="[glimpse][word] weights.")
    boxes: list[list[float]] | None = Field(description="[glimpse] left, top, right, bottom of the write window, in pixels.")


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
    words: list[str] = Field(description="The caption's words as the model reads them.")
    page: File | None = Field(description="With format html: a self-contained page to scrub through the drawings.")
    drawings: list[DrawnPicture]


class DrawResponse(BaseModel):
    """The drawings of a request."""

    model: str
    results: list[Result]


class UnknownWord(BaseModel):
    """A word that is not in the model's vocabulary."""

    word: str
    nearest: list[str] = Field(
        description="Known words of similar spelling, then of similar meaning if the sentence encoder has word vectors."
    )


class ReadResponse(BaseModel):
    """A caption's words as a model reads them."""

    words: list[str]
    unknown: list[UnknownWord]


class ModelCard(BaseModel):
    """A served model."""

    name: str
    kind: str
    description: str
    side: int = Field(description="Pixels of the square canvas.")
    colours: int
    glimpses: int
    reads_words: bool
    words: int = Field(description="Size of the vocabulary.")
    examples: list[str]
    sharpener: str | None


class Limits(BaseModel):
    """Limits of a request."""

    captions: int
    samples: int
    characters: int
    pictures: int = Field(description="Captions times samples.")


class Models(BaseModel):
    """The served models."""

    models: list[ModelCard]
    default: str
    limits: Limits


class Words(BaseModel):
    """A model's vocabulary."""

    words: list[str]


class DrawBody(BaseModel):
    """Captions to draw."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"captions": [EXAMPLE], "seed": 7}]})

    captions: list[str]
    samples: int = 1
    seed: Annotated[
        int,
        Field(ge=0, le=LARGEST_SEED, description="Sample k of every caption uses seed + k; equal seeds draw equal pictures."),
        WHOLE,
    ] = 0
    model: str | None = Field(None, description="A name of GET /v1/models; the default is the first.")
    unknown: Literal["error", "skip"] = Field("error", description="Unknown words: refuse the caption, or skip them.")
    steps: bool = Field(False, description="Include how each picture was drawn.")
    format: Literal["png", "gif", "html"] = Field("png", description="gif is animated; html adds a page for each caption.")
    enlarge: bool = Field(False, description=f"Enlarge small pictures to at most {LARGE} pixels a side, in squares; not for gif.")


class ReadBody(BaseModel):
    """A caption to read."""

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
        400: "The request's body is not text.",
        401: "The API key is missing or wrong.",
        404: "The model does not exist.",
        408: "The request's body arrived too slowly.",
        413: "The request's body is too large.",
        422: "The request is invalid: a limit, an unknown word or an unknown key.",
        500: "The model failed.",
        503: "The queue is full or the store is unreachable; see Retry-After.",
        504: "The drawing took too long.",
        507: "The store is full.",
    }.items()
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of a route."""
    return {status: PROBLEMS[status] for status in statuses}
