"""The settings of `cap2im serve`, and their way to its worker processes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from cap2im.loading import PAGE_MODEL, bundled_models

VARIABLE = "CAP2IM_SERVE"  # the settings as JSON, for worker processes
KEY_VARIABLE = "CAP2IM_API_KEY"
LONGEST_KEY = 4096  # characters

# settings with a regular expression -> what it allows, for messages
PATTERNS = {
    "root_path": "a path such as /draw, without a slash at its end",
    "allowed_hosts": "names in lower case without a port, such as draw.example.org",
    "cors_origins": "* or origins such as https://example.org, without a slash at their end",
    "store_public": "a URL such as https://example.org/pictures, or a path such as /pictures",
}

Seconds = Annotated[float, Field(gt=0, le=86_400)]
HostName = Annotated[str, Field(pattern=r"^[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?$")]
Origin = Annotated[str, Field(pattern=r"^(\*|https?://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?)$")]


def _split(value: Any) -> Any:
    """Split a list from the command line."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


Split = BeforeValidator(_split)


def default_models() -> tuple[str, ...]:
    """Return the bundled models that draw, `PAGE_MODEL` first."""
    return tuple(sorted(bundled_models(), key=lambda name: name != PAGE_MODEL))


class ServeSettings(BaseModel):
    """All settings of the server.

    Attributes:
        models: names or folders; the first is the default of requests that name none. Without any, all bundled models that draw.
        sharpen: a sharpener for all finished pictures, or None.
        devices: cpu, cuda:0, ...; each holds all models.
        workers: number of processes; each holds all models on all devices.
        host: the address to listen on.
        port: the port to listen on; 0 chooses a free one.
        root_path: path prefix that a reverse proxy removes from requests, such as /draw; empty without one.
        allowed_hosts: values of the `Host` header besides localhost and IP addresses, in lower case and without a port. Empty: no other
            name on a loopback address, any name elsewhere.
        cors_origins: origins whose pages may call the API from a browser, such as https://example.org; `*` is every origin.
        queue: most pictures that wait or are drawn at a time, per process; a request that does not fit gets 503.
        compile: whether drawing is compiled before the server is ready; an unusual drawing that would need another compilation is not.
        batch: largest batch; smaller for pictures so large that memory would run out.
        wait_ms: milliseconds that the first picture of a batch waits for others; right after a batch, up to a quarter of its time.
        captions: most captions of a request.
        samples: most pictures of a caption.
        characters: longest caption.
        body_bytes: largest body of a request; a larger one gets 413.
        timeout_s: seconds to draw an accepted request; a slower one gets 504.
        send_timeout_s: seconds without progress until the connection of a client that stops reading is closed (on Linux).
        body_timeout_s: seconds for a request's body to arrive; a slower one gets 408.
        shutdown_s: seconds for a stopping server to finish accepted requests.
        store: URL of a folder or bucket for pictures, which responses then link to; None sends them inline.
        store_public: base URL of the store's files; None serves those of a folder and signs links into a bucket.
        store_link_s: seconds until a signed link expires.
        store_timeout_s: seconds to write or read one file of the store.
        api_key: key that requests to draw require, or None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    models: tuple[str, ...] = Field(default_factory=default_models, min_length=1)
    sharpen: str | None = None
    devices: tuple[str, ...] = Field(("cpu",), min_length=1)
    workers: int = Field(1, ge=1, le=256)
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65_535)
    root_path: str = Field("", pattern=r"^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*$")
    allowed_hosts: Annotated[tuple[HostName, ...], Split] = ()
    cors_origins: Annotated[tuple[Origin, ...], Split] = ()
    queue: int = Field(256, ge=1)
    compile: bool = False
    batch: int = Field(64, ge=1)
    wait_ms: float = Field(5, ge=0, le=1000)
    captions: int = Field(16, ge=1)
    samples: int = Field(16, ge=1)
    characters: int = Field(1000, ge=1)
    body_bytes: int = Field(64 * 1024, ge=1)
    timeout_s: Seconds = 60
    send_timeout_s: Seconds = 10
    body_timeout_s: Seconds = 10
    shutdown_s: Seconds = 30
    store: str | None = Field(None, min_length=1)
    store_public: str | None = Field(None, pattern="^(https?://|/)")
    store_link_s: int = Field(86_400, ge=1, le=604_800)
    store_timeout_s: Seconds = 20
    api_key: SecretStr | None = Field(None, min_length=1)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ServeSettings:
        """Return checked settings.

        Raises:
            ValueError: unknown settings or values out of range, all in one line.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems, others = [], ", ".join(name for name in cls.model_fields if name not in values)
            for each in error.errors():
                key = ".".join(map(str, each["loc"]))
                if each["type"] == "extra_forbidden":
                    problems.append(f"unknown setting {key}; there are {others}")
                    continue
                message = f"expected {PATTERNS[str(each['loc'][0])]}" if each["type"] == "string_pattern_mismatch" else each["msg"]
                problems.append(f"{key}: {message}, got {each['input']!r}")
            raise ValueError("; ".join(problems)) from None

    @classmethod
    def from_environment(cls) -> ServeSettings:
        """Return the settings that `to_environment` wrote, in a worker process."""
        key = os.environ.get(KEY_VARIABLE)
        settings = cls.model_validate_json(os.environ[VARIABLE])
        return settings.model_copy(update={"api_key": None if key is None else SecretStr(key)})

    def to_environment(self) -> None:
        """Write the settings for the processes that this one starts."""
        os.environ[VARIABLE] = self.model_dump_json(exclude={"api_key"})
        if self.api_key is not None:
            os.environ[KEY_VARIABLE] = self.api_key.get_secret_value()

    @property
    def max_pictures(self) -> int:
        """Most pictures of a request."""
        return min(self.captions * self.samples, self.queue)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def read_key(file: Path | None) -> str | None:
    """Return the API key of a file, or else of the environment variable CAP2IM_API_KEY; None without both.

    Raises:
        ValueError: the key is empty, too long, or contains characters that a header cannot carry.
        OSError: the file cannot be read.
    """
    place = KEY_VARIABLE if file is None else str(file)
    if file is None:
        key = os.environ.get(KEY_VARIABLE)
    else:
        with file.open("rb") as stream:  # may be a pipe; a device may never end
            key = stream.read(2 * LONGEST_KEY).decode("utf-8-sig", "replace").strip()
    if key is not None and not re.fullmatch(rf"[!-~]{{1,{LONGEST_KEY}}}", key):
        raise ValueError(f"{place}: expected an API key of at most {LONGEST_KEY:,} visible ASCII characters without spaces")
    return key
