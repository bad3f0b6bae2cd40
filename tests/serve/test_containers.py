"""The container files are consistent: paths exist, the command parses, ports and users agree. Nothing is built."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import typer
import yaml

from cap2im.cli import app
from cap2im.serve.settings import ServeSettings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILES = ("Dockerfile", "Dockerfile.gpu")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
NGINX = (DEPLOY / "nginx.conf").read_text("utf-8")
PROMETHEUS = yaml.safe_load((DEPLOY / "prometheus.yml").read_text("utf-8"))


def instructions(name: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile with their arguments, without comments and with continued lines joined."""
    lines = [line for line in (DEPLOY / name).read_text("utf-8").splitlines() if not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [(found[1], " ".join(found[2].split())) for found in re.finditer(r"^([A-Z]+) (.*)$", whole, re.MULTILINE)]


def arguments(name: str, instruction: str) -> list[str]:
    """Return the arguments of all instructions of a kind."""
    return [rest for kind, rest in instructions(name) if kind == instruction]


def served(words: list[str]) -> typer.Context:
    """Parse a command line `cap2im serve ...` without running it."""
    assert words[:2] == ["cap2im", "serve"]
    serve = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    return serve.make_context("serve", words[2:])


def command(name: str) -> list[str]:
    """Return the command of a container without arguments."""
    (entry,) = arguments(name, "ENTRYPOINT")
    return json.loads(entry) + [word for each in arguments(name, "CMD") for word in json.loads(each)]


@pytest.mark.parametrize("name", [*DOCKERFILES, "Dockerfile.ray"])
def test_copied_paths_exist_and_are_sent_to_the_builder(name):
    ignored, *kept = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert ignored == "*"
    sources = [path for each in arguments(name, "COPY") if "--from" not in each for path in each.split()[:-1]]
    assert "constraints.txt" in sources
    for path in sources:
        assert (ROOT / path).exists(), path
        assert f"!{path.rstrip('/')}" in kept, f"{path} does not reach the builder"


@pytest.mark.parametrize("name", DOCKERFILES)
def test_image_copies_the_files_of_the_package(name):
    """pip reads the readme and licence of pyproject.toml during the build."""
    sources = {path.rstrip("/") for each in arguments(name, "COPY") for path in each.split()}
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    for pattern in (r'^readme = "(.+)"', r'^license-files = \["(.+?)"', r'^packages = \["(.+)/'):
        (found,) = re.findall(pattern, text, re.MULTILINE)
        assert found in sources, found


@pytest.mark.parametrize("name", DOCKERFILES)
def test_container_command_and_ports_are_valid(name):
    parameters = served(command(name)).params
    assert parameters["host"] == "0.0.0.0"
    (exposed,) = arguments(name, "EXPOSE")
    assert parameters["port"] == int(exposed) == ServeSettings.model_fields["port"].default
    (health,) = arguments(name, "HEALTHCHECK")
    (url,) = re.findall(r"http://[^']+", health)
    assert (urlsplit(url).port, urlsplit(url).path) == (int(exposed), "/readyz")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_image_is_multi_stage_and_runs_without_root(name):
    kinds = [kind for kind, _ in instructions(name)]
    assert kinds.count("FROM") == 2
    last = instructions(name)[len(kinds) - 1 - kinds[::-1].index("FROM") :]
    (user,) = [rest for kind, rest in last if kind == "USER"]
    assert int(user) > 0
    assert user in next(rest for kind, rest in last if kind == "RUN" and "useradd" in rest)
    environment = " ".join(rest for kind, rest in last if kind == "ENV")
    assert "HF_HUB_OFFLINE=1" in environment


@pytest.mark.parametrize("name", DOCKERFILES)
def test_image_installs_extras_with_constraints(name):
    installs = [shlex.split(each) for each in arguments(name, "RUN") if "pip install" in each]
    assert len(installs) == 2
    for words in installs:
        assert words[words.index("-c") + 1] == "constraints.txt"
    (extras,) = re.findall(r"\.\[(.+)\]", " ".join(installs[1]))
    offered = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert set(extras.split(",")) <= set(offered)
    assert "serve" in extras.split(",")


def test_images_differ_only_in_device_settings():
    plain, devices = (instructions(name) for name in DOCKERFILES)
    apart = [pair for pair in devices if pair not in plain]
    assert [kind for kind, _ in apart] == ["ARG", "ENV", "HEALTHCHECK", "CMD"]
    assert all(any(word in rest for word in ("/cu", "NVIDIA", "--start-period", "--device")) for _, rest in apart)


def test_image_for_ray_is_on_top_of_the_others():
    steps = instructions("Dockerfile.ray")
    assert steps[:2] == [("ARG", "BASE=cap2im"), ("FROM", "$BASE")]
    (install,) = arguments("Dockerfile.ray", "RUN")
    words, (extra,) = shlex.split(install), PROJECT["optional-dependencies"]["ray"]
    assert (words[words.index("-c") + 1], words[-1]) == ("constraints.txt", extra.partition(">")[0])
    assert [rest for kind, rest in steps if kind == "USER"][-1] == arguments("Dockerfile", "USER")[0]
    assert command("Dockerfile.ray") == ["ray", "start", "--block", "--head"]
    guide = (ROOT / "docs" / "guides" / "scale.md").read_text("utf-8")
    for line in ("docker build -f deploy/Dockerfile.ray -t cap2im:ray .", "cap2im:ray --address FIRST:6379", "docker exec ray serve run"):
        assert line in guide


def test_compose_runs_the_image_with_a_valid_command():
    service = COMPOSE["services"]["cap2im"]
    assert (DEPLOY / service["build"]["context"]).resolve() == ROOT
    dockerfile = Path(service["build"]["dockerfile"])
    assert dockerfile.parent == Path("deploy")
    (entry,) = arguments(dockerfile.name, "ENTRYPOINT")
    parameters = served(json.loads(entry) + service["command"]).params
    folder = parameters["store"]
    assert any(volume.split(":")[1] == folder for volume in service["volumes"])
    assert any(folder in rest for rest in arguments(dockerfile.name, "RUN")), "a new volume takes the owner of the image's folder"
    assert "ports" not in service, "clients come through the proxy"
    assert f"server cap2im:{parameters['port']};" in NGINX
    grace = int(service["stop_grace_period"].removesuffix("s"))
    assert grace > ServeSettings.model_fields["shutdown_s"].default


def test_compose_publishes_the_proxy_on_this_machine_only():
    service = COMPOSE["services"]["proxy"]
    (published,) = service["ports"]
    (listens,) = re.findall(r"listen (\d+);", NGINX)
    assert published == f"127.0.0.1:{ServeSettings.model_fields['port'].default}:{listens}"
    assert (DEPLOY / service["volumes"][0].split(":")[0]).is_file()


def test_the_proxy_has_the_limits_of_the_settings():
    fields = ServeSettings.model_fields
    (body,) = re.findall(r"client_max_body_size (\d+)k;", NGINX)
    assert int(body) * 1024 == fields["body_bytes"].default
    (seconds,) = re.findall(r"proxy_read_timeout (\d+)s;", NGINX)
    assert int(seconds) > fields["timeout_s"].default


def test_images_are_pinned_by_digest():
    pinned = [service["image"] for service in COMPOSE["services"].values() if "image" in service]
    for name in DOCKERFILES:
        assert {rest.split()[0] for rest in arguments(name, "FROM")} == {"$BASE"}
        pinned += [rest.removeprefix("BASE=") for rest in arguments(name, "ARG") if rest.startswith("BASE=")]
    assert len(pinned) == 4
    for image in pinned:
        assert re.fullmatch(r"[a-z/]+:[\w.-]+@sha256:[0-9a-f]{64}", image), image


def test_prometheus_reads_the_metrics_of_that_service():
    (job,) = PROMETHEUS["scrape_configs"]
    ((host, port),) = [target.split(":") for each in job["static_configs"] for target in each["targets"]]
    assert host in COMPOSE["services"]
    assert int(port) == ServeSettings.model_fields["port"].default
    assert job["metrics_path"] == "/metrics"
    mounted = [volume.split(":")[0] for volume in COMPOSE["services"]["prometheus"]["volumes"]]
    assert (DEPLOY / next(path for path in mounted if path.startswith("."))).is_file()
