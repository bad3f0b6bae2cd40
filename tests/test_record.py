"""The record of published numbers, and the program that reproduces them."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from benchmarks import reproduce
from benchmarks.reproduce import RECORD, Entry, Number, read_record

from cap2im.evaluation.evaluation import Evaluation
from cap2im.evaluation.store import keep_evaluation
from cap2im.metrics.measurement import Measurement
from tests.test_docs import assert_parses

ENTRIES = read_record()


@pytest.mark.parametrize("name", ENTRIES)
def test_commands_parse(name):
    for command in ENTRIES[name].commands:
        assert command.startswith("cap2im ")
        assert_parses(command)


@pytest.mark.parametrize("name", ENTRIES)
def test_numbers_are_on_the_page_that_they_name(name):
    """In one row of it, which is the row of the model."""
    entry = ENTRIES[name]
    page = (RECORD.parent / entry.page).read_text("utf-8").replace("**", "")
    rows = [line for line in page.splitlines() if line.startswith(f"| {entry.row} |")]
    texts = [number.text for number in entry.numbers.values()]
    assert [row for row in rows if all(re.search(rf"(?<![\d.-]){re.escape(text)}(?![\d.])", row) for text in texts)], rows


@pytest.mark.parametrize("name", ENTRIES)
def test_intervals_are_those_of_the_texts(name):
    """In brackets or, for a bound, 1.96 standard errors on each side."""
    for title, number in ENTRIES[name].numbers.items():
        if bracket := re.search(r"\((-?[\d.]+)-(-?[\d.]+)\)", number.text):
            assert number.interval == (float(bracket[1]), float(bracket[2])), title
        elif title.startswith("bound"):
            half = 1.96 * float(number.text.split("± ")[1])
            assert number.interval == pytest.approx((number.value - half, number.value + half), abs=0.02), title  # rounding


def entry(**fields: object) -> Entry:
    numbers = {"joint, seen, %": Number(text="95.5 (94.7-96.1)", interval=(94.7, 96.1)), "SSIM": Number(text="0.150 ± 0.084")}
    common = {"about": "a", "page": "p.md", "row": "a", "seed": 0, "updates": "1 x 1", "time": "1 s", "machine": "m", "numbers": numbers}
    return Entry(**common | {"commands": ["cap2im evaluate a"], "evaluation": "e.json"} | fields)


def measured(joint: float, *others: Measurement) -> tuple[Measurement, ...]:
    return Measurement(name="joint", group="seen", value=joint, n=9, unit="proportion"), *others


SSIM = Measurement(name="SSIM", value=0.1, n=9)


@pytest.mark.parametrize(
    ("measurements", "reproduced"),
    [
        (measured(0.955, SSIM), [True, True]),
        (measured(0.9466, SSIM), [True, True]),  # is printed as 94.7, the end of the interval
        (measured(0.9464, SSIM), [False, True]),
        (measured(0.9616, SSIM), [False, True]),
        (measured(0.955), [True, False]),
    ],
)
def test_numbers_inside_of_their_intervals_are_reproduced(measurements, reproduced):
    verdicts = list(reproduce.judge(entry(), {each.title: each for each in measurements}))
    assert [verdict for verdict, _ in verdicts] == reproduced
    assert ("OUTSIDE of 94.7 to 96.1" in verdicts[0][1]) != reproduced[0]


def test_a_published_number_is_inside_of_its_interval():
    with pytest.raises(ValueError, match=r"95.5 is outside of its interval \(96.0, 97.0\)"):
        Number(text="95.5", interval=(96, 97))


@pytest.mark.parametrize(("joint", "status"), [(0.955, 0), (0.9, 1)])
def test_the_commands_run_in_the_folder(tmp_path, monkeypatch, capsys, joint, status):
    ran = []

    def run(command: list[str], *, cwd: Path, check: bool) -> None:
        ran.append((command[1:], check))
        keep_evaluation(cwd / "e.json", Evaluation("a", "0", {}, measured(joint, SSIM)))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(reproduce, "read_record", lambda: {"one": entry(), "two": entry()})
    assert reproduce.main(["one", "--folder", str(tmp_path)]) == status
    assert ran == [(["-m", "cap2im", "evaluate", "a"], True)]
    assert f"measured {100 * joint:.1f}" in capsys.readouterr().out


def test_a_failed_command_and_an_unknown_name_exit_with_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "read_record", lambda: {"one": entry(commands=["cap2im evaluate nothing-of-this-name"])})
    assert reproduce.main(["one", "--folder", str(tmp_path)]) == 2
    assert "failed with exit status 2: cap2im evaluate nothing-of-this-name" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        reproduce.main(["two"])
    assert "two: choose from one" in capsys.readouterr().err


def test_a_missing_folder_or_evaluation_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", lambda command, cwd, check: None)
    monkeypatch.setattr(reproduce, "read_record", lambda: {"one": entry()})
    with pytest.raises(SystemExit, match="2"):
        reproduce.main(["one", "--folder", str(tmp_path / "nothing")])
    assert capsys.readouterr().err.splitlines()[-1].endswith("nothing: not a folder")
    assert reproduce.main(["one", "--folder", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"{tmp_path / 'e.json'}: no evaluation; the last command should have written it\n"


def test_an_evaluation_is_printed_as_lines_of_the_record(tmp_path, capsys):
    similarity = Measurement(name="SSIM", value=0.15, n=9, digits=3, deviation=0.08, interval=(0.1491, 0.1512))
    kl = Measurement(name="KL", value=3.0, n=9, detail=True)
    joint = Measurement(name="joint", group="seen", value=0.9551, n=9, unit="proportion", interval=(0.947, 0.9612))
    parameters = Measurement(name="parameters", value=1000, n=1, digits=0)
    keep_evaluation(tmp_path / "e.json", Evaluation("a", "0", {}, (joint, similarity, kl, parameters)))
    assert reproduce.main(["--numbers", str(tmp_path / "e.json")]) == 0
    numbers = {title: Number(**fields) for title, fields in tomllib.loads(capsys.readouterr().out).items()}
    assert numbers == {
        "joint, seen, %": Number(text="95.5 (94.7-96.1)", interval=(94.7, 96.1)),
        "SSIM": Number(text="0.150 ± 0.080", interval=(0.149, 0.151)),
    }
    with pytest.raises(SystemExit, match="2"):
        reproduce.main(["--numbers", str(tmp_path / "nothing.json")])
    assert "expected a file of cap2im evaluate or cap2im compare" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        reproduce.main(["one", "--numbers", str(tmp_path / "e.json")])
    assert "one: --numbers runs no commands; leave out one of the two" in capsys.readouterr().err


def test_names_are_listed_without_a_name(capsys):
    assert reproduce.main([]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(ENTRIES)
