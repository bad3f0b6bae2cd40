"""The settings of `cap2im serve`, and how they reach its worker processes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

VARIABLE = "CAP2IM_SERVE"  # the settings as JSON, for worker processes
KEY_VARIABLE = "CAP2IM_API_KEY"
LONGEST_KEY = 4096  # characters

Seconds = Annotated[float, Field(gt=0, le=86_400)]
HostName = Annotated[str, Field(pattern=r"^[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?$")]
Origin = Annotated[str, Field(pattern=r"^(\*|https?://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?)$")]


def _split(value: Any) -> Any:
    """Split what the command line gives for a list."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


Split = BeforeValidator(_split)


class ServeSettings(BaseModel):
    """Every limit of the server.

    Attributes:
        models: names or folders; the first one draws where a request names none.
        sharpen: a sharpener of all finished pictures, or None.
        devices: cpu, cuda:0, ...; every model is loaded on each.
        workers: processes; each has all models on all devices.
        host: the address that is listened on.
        port: of it; 0 takes any that is free.
        root_path: path prefix that a reverse proxy removes before it passes a request on, such as /draw; empty without one.
        allowed_hosts: names, in lower case and without a port, that the `Host` header may have besides localhost and IP addresses. Empty:
            no other name on a loopback address, any name elsewhere.
        cors_origins: origins whose pages may call the API from a browser, such as https://example.org; `*` is every origin.
        queue: pictures that may wait or be drawn at a time, in each process; a request that does not fit gets 503.
        batch: pictures that are drawn together, at most; fewer where they are so large that memory would be short.
        wait_ms: milliseconds for which a first picture waits for company; right after a batch it may wait a quarter of the batch's time.
        captions: of a request, at most.
        samples: of a caption, at most.
        characters: of a caption, at most.
        body_bytes: of a request's body, at most; more gets 413.
        timeout_s: seconds until an accepted request that is not answered gets 504.
        send_timeout_s: seconds until the connection of a client that stops reading its answer is closed; `timeout_s` if that is less.
        body_timeout_s: seconds within which a request's body has to arrive; a slower one gets 408.
        shutdown_s: seconds that a stopping server has to finish what it accepted.
        store: URL of a folder or bucket for pictures, which are answered as links; None answers them inline.
        store_public: the address under which others read the store's files; None has the server answer those of a folder, and signs links
            into a bucket.
        store_link_s: seconds for which a signed link holds.
        store_timeout_s: seconds after which a file that is not yet kept or read counts as lost.
        api_key: what requests that draw have to bring along, or None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    models: tuple[str, ...] = Field(("aligndraw-mnist",), min_length=1)
    sharpen: str | None = None
    devices: tuple[str, ...] = Field(("cpu",), min_length=1)
    workers: int = Field(1, ge=1, le=256)
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65_535)
    root_path: str = Field("", pattern=r"^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*$")
    allowed_hosts: Annotated[tuple[HostName, ...], Split] = ()
    cors_origins: Annotated[tuple[Origin, ...], Split] = ()
    queue: int = Field(256, ge=1)
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
        """Checked settings.

        Raises:
            ValueError: unknown settings or values out of range, all in one line.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            told = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}, got {problem['input']!r}" for problem in error.errors()]
            raise ValueError("; ".join(told)) from None

    @classmethod
    def from_environment(cls) -> ServeSettings:
        """In a worker process: what `to_environment` left."""
        key = os.environ.get(KEY_VARIABLE)
        settings = cls.model_validate_json(os.environ[VARIABLE])
        return settings.model_copy(update={"api_key": None if key is None else SecretStr(key)})

    def to_environment(self) -> None:
        """For the processes that this one starts."""
        os.environ[VARIABLE] = self.model_dump_json(exclude={"api_key"})
        if self.api_key is not None:
            os.environ[KEY_VARIABLE] = self.api_key.get_secret_value()

    @property
    def pictures(self) -> int:
        """Of a request, at most."""
        return min(self.captions * self.samples, self.queue)

    @property
    def stall_s(self) -> float:
        """Seconds without progress after which a client that should read its answer counts as gone."""
        return min(self.send_timeout_s, self.timeout_s)

    @property
    def private(self) -> bool:
        """Whether nobody but this machine can reach the server."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def read_key(file: Path | None) -> str | None:
    """The API key: that of a file, or else of the environment's CAP2IM_API_KEY; None where neither has one.

    Raises:
        ValueError: the key is empty, too long, or holds what no header can carry.
        OSError: the file cannot be read.
    """
    place = KEY_VARIABLE if file is None else str(file)
    if file is None:
        key = os.environ.get(KEY_VARIABLE)
    else:
        with file.open("rb") as stream:  # a pipe is welcome; a device may never end
            key = stream.read(2 * LONGEST_KEY).decode("utf-8-sig", "replace").strip()
    if key is not None and not re.fullmatch(rf"[!-~]{{1,{LONGEST_KEY}}}", key):
        raise ValueError(f"{place}: expected an API key of at most {LONGEST_KEY:,} visible ASCII characters without spaces")
    return key
