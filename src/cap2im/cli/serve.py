"""`cap2im serve`: serve models to programs and browsers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import cap2im
from cap2im.cli.options import PATH, PLACE, SharpenOption, examples
from cap2im.extras import require

commands = typer.Typer()


@commands.command(
    epilog=examples(
        "cap2im serve",
        "cap2im serve --model aligndraw-mnist --model runs/photos --port 8080",
        "cap2im serve --host 0.0.0.0 --api-key-file key.txt --workers 2 --store pictures/",
        "cap2im serve --device cuda:0 --device cuda:1 --batch 128 --set samples=4 --set timeout_s=20",
    )
)
def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Bundled name, folder, run, or OWNER/NAME on the hub; may be repeated. [default: all bundled models that draw]",
            **PLACE,
        ),
    ] = None,
    sharpen: SharpenOption = None,
    device: Annotated[list[str] | None, typer.Option(help="cpu, cuda:0, mps; may be repeated to use several.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes; each loads all models.")] = 1,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 accepts other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 chooses a free one.")] = 8000,
    root_path: Annotated[str, typer.Option(help="Path prefix that a reverse proxy removes, such as /draw.")] = "",
    queue: Annotated[int, typer.Option(min=1, help="Pictures that may wait or be drawn in a process; more are refused.")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Pictures that are drawn together, at most.")] = 64,
    compile_models: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Compile the models: a later start, faster drawing. Recurrent models only.")
    ] = False,
    store: Annotated[
        str | None, typer.Option(help="Folder or URL (s3://, gs://, abfs://) to store pictures in; responses can then hold links.", **PLACE)
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="File with the API key of clients. [default: the environment variable CAP2IM_API_KEY]", **PATH),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="KEY=VALUE of another limit; may be repeated: captions, samples, characters, body_bytes, wait_ms, timeout_s, "
            "send_timeout_s, body_timeout_s, shutdown_s, store_public, store_link_s, store_timeout_s; "
            "allowed_hosts, cors_origins: lists with commas.",
        ),
    ] = None,
) -> None:
    """Serve models: an API, and a page that shows how they draw."""
    require("serving", "serve", "fastapi", "uvicorn")
    from cap2im.loading import find_device, find_model
    from cap2im.models.lapgan import Sharpener
    from cap2im.serve.app import serve as run_server
    from cap2im.serve.settings import ServeSettings, default_models, read_key

    default = default_models() if sharpen is None else [cap2im.DEFAULT_MODEL]  # a sharpener fits one size of picture
    values: dict[str, Any] = {
        "models": tuple(model or default),
        "sharpen": sharpen,
        "devices": tuple(device or ["cpu"]),
        "workers": workers,
        "host": host,
        "port": port,
        "root_path": root_path,
        "queue": queue,
        "batch": batch,
        "compile": compile_models,
        "store": store,
        "api_key": read_key(api_key_file),
    }
    for change in changes or []:
        key, equals, value = change.partition("=")
        if not equals or key in values:
            raise ValueError(f"--set {change}: expected KEY=VALUE of a setting that has no option of its own")
        values[key] = value
    settings = ServeSettings.of(values)
    for each in settings.devices:
        find_device(each)
    for each in settings.models:
        find_model(each)
    if sharpen is not None:
        find_model(sharpen, Sharpener)
    run_server(settings)
