"""docs/guides/serving.md is correct: limits equal the settings, commands parse, requests succeed."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer

from cap2im.cli import app
from cap2im.serve.metrics import Metrics
from cap2im.serve.settings import ServeSettings

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "guides" / "serving.md").read_text("utf-8")
ONE_LINE = TEXT.replace("\\\n", "")
COMMANDS = re.findall(r"^ {4,}(\S.*)$", re.sub(r"```.*?```", "", ONE_LINE, flags=re.DOTALL), re.MULTILINE)
CURLS = [command for line in COMMANDS for command in line.split(" | ") if command.startswith("curl ")]


def rows(name: str) -> list[list[str]]:
    """Return the cells of a marked table, without its head."""
    (table,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- end of {name} -->", TEXT, re.DOTALL)
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_limits_are_the_settings():
    fields = ServeSettings.model_fields
    numbers = {name for name, field in fields.items() if isinstance(field.default, int | float)} - {"port", "compile"}
    told = {name: default for name, default, *_ in rows("limits")}
    assert set(told) == numbers
    for name, default in told.items():
        assert float(default.replace(",", "")) == fields[name].default, name


def test_metrics_are_those_that_are_counted():
    metrics = Metrics()
    there = {family.name + ("_total" if family.type == "counter" else "") for family in metrics.registry.collect()}
    assert {name for name, _ in rows("metrics")} == there


@pytest.mark.parametrize("line", [part for line in COMMANDS for part in line.split(" && ") if part.startswith("cap2im serve")])
def test_commands_parse(line):
    words = shlex.split(line)[2:]
    context = typer.main.get_command(app).commands["serve"].make_context("serve", list(words))  # type: ignore[attr-defined]
    typed = {name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"}
    assert len(typed) == len({word for word in words if word.startswith("-")})


def test_there_are_commands_and_requests():
    assert sum("cap2im serve" in line for line in COMMANDS) >= 6
    assert len(CURLS) >= 6


@pytest.mark.parametrize("line", CURLS)
def test_valid_requests_succeed(bundled, line):
    words = shlex.split(line)
    (url,) = [word for word in words if word.startswith("http://127.0.0.1:8000")]
    answer = bundled.post(url.removeprefix("http://127.0.0.1:8000"), json=json.loads(words[words.index("-d") + 1]))
    assert answer.status_code == (201 if "/api/" in url else 200), answer.text


def test_documented_response_is_the_response(bundled):
    """Except the picture, which the document shortens."""
    (shown,) = re.findall(r"```json\n(.*?)\n```", TEXT, re.DOTALL)
    words = shlex.split(CURLS[0])
    answer = bundled.post("/v1/draw", json=json.loads(words[words.index("-d") + 1])).text
    assert shown == re.sub(r'("base64":"\w{11})[^"]*"', r'\1..."', answer)
