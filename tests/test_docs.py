"""The documentation holds: its links exist, its maps are complete, and its commands run or are listed below with the reason why not."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
import typer
from PIL import Image

from cap2im.cli import app
from cap2im.config import load_recipe, recipe_names
from cap2im.evaluation.registry import METRICS
from cap2im.loading import bundled_models
from tests.real_data import data_folder

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "docs"
PAGES = [
    page
    for page in sorted(SITE.rglob("*.md"))
    if "_build" not in page.parts and page.parent.name != "recipes" and page.name not in ("command-line.md", "record.md")
]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *PAGES, ROOT / "benchmarks" / "README.md"]
CARDS = sorted((ROOT / "src" / "cap2im" / "pretrained").glob("*/README.md"))
COMMAND = typer.main.get_group(app)

# pages whose commands are only parsed
PARSED = {
    "docs/adding-a-model.md": "a model that is not in the registry; tests/test_new_model.py runs it",
    "docs/results/comparison.md": "hours of training",
    "docs/results/cifar.md": "hours of training",
    "docs/results/scenes.md": "hours of training",
    "docs/explanation/attngan.md": "hours of training, and COCO",
    "docs/guides/converting.md": "the authors' files; tests/convert runs files of their layout",
    "docs/guides/serving.md": "they serve until stopped; tests/serve runs the server, the requests and the proxy",
    "src/cap2im/pretrained/aligndraw-mnist/README.md": "hours of training",
}
# commands of other pages that are only parsed
NOT_RUN = {
    r"cap2im serve": "serves until stopped; tests/serve runs it",
    r"cap2im push (?!.*--dry-run)|cap2im draw .*--model OWNER/": "the hub; tests/test_hub.py has one on this machine",
    r"cap2im export": "ten seconds; tests/export exports small models",
    r"accelerate launch": "several processes; tests/training and tests/metrics run them",
    r"cap2im compare --preset": "trains seven models; tests/evaluation runs it on small ones",
    r".*(s3://|hf://)": "a bucket or the hub",
    r"cap2im evaluate .*(--shortlist-model|--damsm|--inception|--scene-reader)": "another trained network; tests/evaluation has small ones",
    r"cap2im prepare (flickr8k|cifar|cutouts emoji)|cap2im train (\S+-flickr8k|vgg-cifar-small)": "thousands of images; tests have a few",
    r"cap2im figures .*(--sharpen|flickr8k-64)": "a sharpener or thousands of images; tests/evaluation has small ones",
    r"cap2im evaluate .*(compositional-accuracy|cutouts)": "a trained model of scenes; tests/evaluation has a small one",
    r"cap2im prepare webdataset": "a hundred shards; tests/data reads some",
    r"cap2im train scene-reader": "captions with all of its words; tests/training trains small ones",
    r"cap2im train skipthoughtdraw-cifar": "the paper's sentence vectors; tests/training trains small ones",
}


def relative(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def commands(document: Path) -> list[str]:
    """Return the cap2im commands of a document's code blocks, without comments."""
    text = document.read_text("utf-8").replace("\\\n", " ")
    fenced = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in fenced for line in block.splitlines()] + re.findall(r"^ {4,6}(\S.*)$", indented, re.MULTILINE)
    parts = [part.strip() for line in lines for part in re.split(r"\s#\s|\s#$", line)[0].split(" && ")]
    return [part for part in parts if re.match(r"(cap2im|accelerate launch)\s", part)]


def arguments(command: str) -> list[str]:
    words = shlex.split(command)
    return words[words.index("cap2im") + 1 :]


def assert_parses(command: str) -> None:
    name, *rest = arguments(command)
    assert name in COMMAND.commands, command
    try:
        context = COMMAND.commands[name].make_context(name, list(rest))
    except typer.BadParameter as error:
        if "no such f" in str(error):  # a file or folder that the page takes for granted
            return
        raise
    given = {key for key in context.params if context.get_parameter_source(key).name == "COMMANDLINE"}
    assert len(given) >= len({word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}), command
    if name == "train" and rest[0] in recipe_names():
        load_recipe(rest[0], [change for option, change in itertools.pairwise(rest) if option == "--set"])


@pytest.mark.parametrize("document", [*DOCUMENTS, *CARDS], ids=relative)
def test_commands_parse(document):
    for command in commands(document):
        assert_parses(command)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with what the pages take for granted: photos/, list.csv, captions.txt, sprites/, mnist/; ready/ has a dataset and a run."""
    folder = tmp_path_factory.mktemp("docs")
    photos = folder / "photos"
    photos.mkdir()
    rows = ["file,title,colour"]
    for number in range(80):
        colour, shade = (("red", (200, number, 30)), ("blue", (30, number, 200)))[number % 2]
        Image.new("RGB", (48, 48), shade).save(photos / f"{number}.png")
        (photos / f"{number}.txt").write_text(f"a {colour} bus on a street {number // 40}\n", "utf-8")
        rows.append(f"{number}.png,a bus,{colour}")
    (folder / "list.csv").write_text("\n".join(rows), "utf-8")
    (folder / "captions.txt").write_text("".join(f"a red bus\na blue bus {n}\na bus on a street\n\n" for n in range(40)), "utf-8")
    for style, name in itertools.product(("round", "pixels"), ("dog", "cat", "red-apple")):
        (folder / "sprites" / style).mkdir(parents=True, exist_ok=True)
        cutout = Image.new("RGBA", (24, 24))
        cutout.paste((90, 250, 250, 255), (4, 4, 20, 20))
        cutout.save(folder / "sprites" / style / f"{name}.png")
    (folder / "mnist").symlink_to(data_folder() / "mnist")
    return folder


@pytest.fixture
def ready(workspace, run, monkeypatch):
    """The folder ready/ of the workspace, with a prepared dataset and runs on it."""
    monkeypatch.chdir(workspace)
    if not (workspace / "ready").exists():
        out = ("--out", "ready/data/photos")
        assert run("prepare", "pairs", "photos", *out, "--validation", "0.2", "--test", "0.2")[0] == 0
        train = "cap2im train aligndraw-small --data ready/data/photos --run ready/runs/photos"
        assert run(*shortened(train))[0] == 0
        for copy in ("runs/photos runs/align", "runs/photos runs/noalign", "data/photos data/more"):
            source, target = copy.split()
            shutil.copytree(workspace / "ready" / source, workspace / "ready" / target)
    return workspace / "ready"


def shortened(command: str) -> list[str]:
    """Return a command's arguments, changed so that it ends within seconds."""
    name, *rest = arguments(command)
    if name == "train" and "--dry-run" not in rest:
        kept = [word for word in rest if not word.startswith(("train.epochs=", "train.updates="))]
        kept = [word for word, after in zip(kept, [*kept[1:], ""], strict=True) if word != "--set" or after.partition("=")[1]]
        updates = 4 if "--resume" in rest else 2
        changes = {"train.updates": updates, "train.validate_every": 2, "train.checkpoint_every": 2}
        if "--resume" not in rest:
            changes |= {"train.batch_size": 10} | ({} if "vgg" in rest[0] else {"data.validation_samples": 20})
            changes |= {"data.one_thing_until": 0} if rest[0].endswith("-scenes") else {}
        return [name, *kept, "--device", "cpu", *(part for key, value in changes.items() for part in ("--set", f"{key}={value}"))]
    if name == "sample":
        return [name, *("4" if before == "--count" else word for before, word in zip(["", *rest], rest, strict=False))]
    if name in ("evaluate", "compare"):
        return [name, *rest, "--samples", "1", "--images", "4"]
    return [name, *rest]


def runs(document: Path) -> list[str]:
    if relative(document) in PARSED:
        return []
    return [command for command in commands(document) if not any(re.match(pattern, command) for pattern in NOT_RUN)]


@pytest.mark.slow
@pytest.mark.parametrize("document", [document for document in DOCUMENTS if runs(document)], ids=relative)
def test_commands_run(document, workspace, ready, run):
    before = set(workspace.iterdir())
    shutil.copytree(ready, workspace, dirs_exist_ok=True)
    lines = runs(document)
    for path in ("data/photos", "runs/photos"):  # a page that makes them starts without
        if any(f"--out {path}" in line or f"--run {path}" in line for line in lines):
            shutil.rmtree(workspace / path)
    try:
        for command in lines:
            status, _, errors = run(*shortened(command))
            assert status == 0, f"{command}\n{errors}"
    finally:
        for path in set(workspace.iterdir()) - before:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_lists_of_commands_that_do_not_run_are_current():
    named = {relative(document) for document in [*DOCUMENTS, *CARDS] if commands(document)}
    assert set(PARSED) <= named
    others = [command for document in DOCUMENTS if relative(document) not in PARSED for command in commands(document)]
    for pattern in NOT_RUN:
        assert any(re.match(pattern, command) for command in others), pattern


def test_every_command_is_in_a_guide():
    text = "".join(page.read_text("utf-8") for page in PAGES)
    for name in COMMAND.commands:
        assert f"cap2im {name}" in text, name
    for name in bundled_models():
        assert f"`{name}`" in text, name


def test_every_metric_is_in_the_table_of_the_evaluation_guide():
    guide = (SITE / "guides" / "evaluating.md").read_text("utf-8")
    assert re.findall(r"^\| `([a-z-]+)` \|", guide, re.MULTILINE) == list(METRICS)


def test_every_recipe_is_in_the_training_guide():
    guide = (SITE / "guides" / "training.md").read_text("utf-8")
    patterns = [re.escape(name).replace(r"\*", ".*") for name in re.findall(r"`([a-z0-9*-]+)`", guide)]
    for name in recipe_names():
        assert any(re.fullmatch(pattern, name) for pattern in patterns), name


def test_every_folder_is_in_the_contributors_map():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    package = ROOT / "src" / "cap2im"
    for folder in (path for path in [*ROOT.iterdir(), *package.iterdir()] if path.is_dir() and not path.name.startswith((".", "__"))):
        if subprocess.run(["git", "ls-files", str(folder)], cwd=ROOT, capture_output=True, text=True, check=False).stdout:
            assert f"{folder.name}/`" in text, folder


def test_install_commands_use_the_constraints():
    for document in DOCUMENTS:
        for line in document.read_text("utf-8").splitlines():
            if re.search(r"\bpip install\b", line) and "cap2im[" not in line:
                assert "-c constraints.txt" in line, f"{document.name}: {line}"


def test_links_and_pictures_exist():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", document.read_text("utf-8")):
            path = target[0] or target[1]
            if not path.startswith("http"):
                assert (document.parent / path).exists(), f"{document.name}: {path}"


def test_readme_has_the_lines_that_ci_runs():
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    for start in re.findall(r"^ *run_readme '(.+)'", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE):
        assert any(re.match(" {4}" + start, line) for line in lines), start


def test_readme_is_a_map():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 120


def test_glossary_has_thirty_terms():
    glossary = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("## Glossary")[2]
    assert len(re.findall(r"^\| (?!term|---)", glossary, re.MULTILINE)) >= 30


def test_notebooks_have_no_outputs():
    for path in (SITE / "tutorials").glob("*.ipynb"):
        notebook = nbformat.validate(json.loads(path.read_text("utf-8"))) or nbformat.read(path, as_version=4)
        assert not [cell for cell in notebook.cells if cell.cell_type == "code" and (cell.outputs or cell.execution_count)], path
