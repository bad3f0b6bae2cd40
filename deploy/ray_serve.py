"""The application of `cap2im serve` as a deployment of Ray Serve: replicas on one or many machines, behind one address.

    pip install -c constraints.txt ".[serve,ray]"
    cd deploy && serve run ray_serve:build models=aligndraw-mnist,aligndraw-flickr8k replicas=2

docs/guides/scale.md describes when to use it, and what happens to requests when a replica dies.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application


class Arguments(BaseModel):
    """Arguments of `serve run`, as KEY=VALUE.

    Attributes:
        models: names of models, separated by commas; empty: all bundled models that draw.
        replicas: processes; each holds all models.
        cpus: processors of a replica.
        gpus: GPUs of a replica, which may be a fraction.
        queue: most pictures that wait or are drawn at a time, per replica.
    """

    model_config = ConfigDict(extra="forbid")

    models: str = ""
    replicas: int = Field(2, ge=1)
    cpus: float = Field(1, gt=0)
    gpus: float = Field(0, ge=0)
    queue: int = Field(256, ge=1)


@serve.deployment(health_check_period_s=2, graceful_shutdown_timeout_s=60)
@serve.ingress()
class Draw:
    """A replica with its own models and its own batching of requests."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def __serve_build_asgi_app__(self) -> Any:
        """Return the application; Ray Serve calls this in the replica's process."""
        from cap2im.serve.app import create_app
        from cap2im.serve.settings import ServeSettings

        return create_app(ServeSettings.of(self.settings))


def build(arguments: dict[str, str]) -> Application:
    """Return the application for `serve run`.

    Args:
        arguments: of the command line, as `Arguments` describes them.
    """
    args = Arguments.model_validate(arguments)
    settings: dict[str, Any] = {"queue": args.queue, "host": "0.0.0.0", "devices": ["cuda:0"] if args.gpus else ["cpu"]}
    if args.models:
        settings["models"] = args.models.split(",")
    resources = {"num_cpus": args.cpus, "num_gpus": args.gpus}  # Ray sets OMP_NUM_THREADS to the first
    return Draw.options(num_replicas=args.replicas, max_ongoing_requests=args.queue, ray_actor_options=resources).bind(settings)
