"""The wheel and the sdist: they contain the package and nothing else, and the wheel works outside of the checkout."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from cap2im import __version__

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
PYTHONS = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]


def tracked(*paths: str) -> set[str]:
    """Return the files under paths that git tracks, or would if they were added."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *paths]
    return set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines())


def build(kind: str, source: Path, target: Path) -> Path:
    """Build a wheel or an sdist of a source folder."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)], cwd=source, capture_output=True, check=True)
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """The wheel, built from the sdist as `pip install` of an sdist does."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 and later
        archive.extractall(folder)
    return build("wheel", folder / f"cap2im-{__version__}", tmp_path_factory.mktemp("wheel"))


def test_sdist_holds_the_package_and_what_builds_it(sdist):
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive}
    documents = {".gitignore", "CHANGELOG.md", "CITATION.cff", "LICENSE", "PKG-INFO", "README.md", "constraints.txt", "pyproject.toml"}
    assert names == tracked("src/cap2im") | documents


def test_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = Parser().parsestr(archive.read(f"cap2im-{__version__}.dist-info/METADATA").decode())
    own = {name for name in names if not name.startswith(f"cap2im-{__version__}.dist-info/")}
    assert own == {name.removeprefix("src/") for name in tracked("src/cap2im")}
    for pattern in (
        "recipes/*.toml",
        "pretrained/*/model.safetensors",
        "viewer/index.html",
        "serve/page/api.js",
        "export/page/worker.js",
        "py.typed",
    ):
        assert any(Path(name).match(f"cap2im/{pattern}") for name in own), pattern
    assert metadata["Version"] == __version__
    cards = {f"src/{name}" for name in own if name.endswith("README.md")}
    assert set(metadata.get_all("License-File")) == {"LICENSE"} | cards
    assert wheel.stat().st_size < 40_000_000


STRANGER = """
import runpy, sys
import cap2im
assert cap2im.__file__.startswith(sys.argv[1]), cap2im.__file__
sys.argv = ["cap2im", "draw", "the digit three is at the top of the digit one", "--samples", "1", "--only", "png", "--only", "html"]
runpy.run_module("cap2im", run_name="__main__")
"""


def test_installed_wheel_draws_outside_of_the_checkout(wheel, tmp_path):
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--no-compile",
        "--target",
        str(tmp_path / "site"),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    place = tmp_path / "a folder, elsewhere"
    place.mkdir()
    # -I ignores PYTHONPATH and the current folder
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n{STRANGER}"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(tmp_path / "site")], cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (place / "drawings").iterdir()
    assert {path.name for path in folder.iterdir()} >= {"sample-1.png", "drawing.html"}
    assert "viewer" in (folder / "drawing.html").read_text("utf-8")


def test_messages_of_the_package_name_no_file_of_the_checkout():
    for path in (ROOT / "src" / "cap2im").rglob("*.py"):
        for text in re.findall(r"(?<!\")\"(?!\"\")[^\"\n]*\"|'[^'\n]*'", path.read_text("utf-8")):
            assert not re.search(r"checkout|constraints\.txt|docs/|benchmarks/|pyproject", text), f"{path}: {text}"


def environment(python: str, system: str) -> dict[str, str]:
    """Return values of the markers that requirements use."""
    platforms = {"linux": ("Linux", "posix", "x86_64"), "darwin": ("Darwin", "posix", "arm64"), "win32": ("Windows", "nt", "AMD64")}
    name, os_name, machine = platforms[system]
    return {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": system,
        "platform_system": name,
        "os_name": os_name,
        "platform_machine": machine,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "extra": "",
    }


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_pin_every_requirement_once(python, system):
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins: dict[str, str] = {}
    for pin in (Requirement(line) for line in lines if not line.startswith("#")):
        if pin.marker is None or pin.marker.evaluate(environment(python, system)):
            assert pin.name not in pins, f"{pin.name} has two pins"
            pins[pin.name] = str(pin.specifier).removeprefix("==")
    for text in (each for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()) for each in group):
        wanted = Requirement(text)
        if wanted.name != "cap2im" and (wanted.marker is None or Marker(str(wanted.marker)).evaluate(environment(python, system))):
            name = wanted.name.lower().replace("_", "-")
            assert wanted.specifier.contains(pins.get(name, "0"), prereleases=True), (
                f"{text}: constraints.txt has {pins.get(name)}; its first lines have the command that writes it anew"
            )


def test_workflow_runs_every_supported_python_and_system():
    jobs = yaml.safe_load(WORKFLOW.read_text("utf-8"))["jobs"]
    matrix = jobs["wheel"]["strategy"]["matrix"]
    assert matrix["python"] == PYTHONS
    assert all(version in SpecifierSet(PROJECT["requires-python"]) for version in PYTHONS)
    assert {system.partition("-")[0] for system in matrix["system"]} == {"ubuntu", "macos", "windows"}
    commands = "\n".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    for command in ("ruff check", "mypy", "pytest", "sphinx-build -W", "python -m build", "cap2im draw"):
        assert command in commands, command
