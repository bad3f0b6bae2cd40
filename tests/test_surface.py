"""Walk the public surface: imports follow the architecture, bundled models have cards, and the core stays small."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

import cap2im
from cap2im.loading import BUNDLED, bundled_models

ROOT = Path(__file__).resolve().parents[1]


def test_imports_keep_the_contracts_of_pyproject():
    # in a process of its own, because it disables all loggers of the one that it runs in
    code = f"from importlinter.cli import lint_imports; exit(lint_imports(config_filename={str(ROOT / 'pyproject.toml')!r}, no_cache=True))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_models_import_torch_and_pydantic_only():
    graph = grimp.build_graph("cap2im", include_external_packages=True)
    imported = {each for module in graph.find_descendants("cap2im.models") for each in graph.find_modules_directly_imported_by(module)}
    assert {name.partition(".")[0] for name in imported} - sys.stdlib_module_names == {"cap2im", "torch", "pydantic"}


def test_bundled_files_are_small_and_have_cards():
    for card in BUNDLED.glob("*/README.md"):
        text = card.read_text("utf-8")
        assert re.search(r"command \| `(cap2im|accelerate)", text), card
        assert re.search(r"seed.* \| \d", text), card
    folders = [folder for folder in BUNDLED.iterdir() if folder.is_dir()]
    assert folders
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
        assert (folder / "model.safetensors").stat().st_size <= 12_000_000


CORE_ONLY = """
import sys
extras = "accelerate", "tensorboard", "sklearn", "matplotlib", "scipy", "torchmetrics", "datasets", "h5py", "pytest", "transformers"
sys.modules.update(dict.fromkeys(extras))  # None: not installed
import cap2im
assert "torch" not in sys.modules and "numpy" not in sys.modules, "importing the package is cheap"
model = cap2im.load(sys.argv[1])
drawing = model.draw(model.examples[0], seed=0)[0]
c = model.model.config
assert drawing.canvases.shape == (model.model.glimpses, c.side, c.side, c.colours)
assert drawing.canvases[-1].std() > 10, "something was drawn"
"""


@pytest.mark.parametrize("name", bundled_models())
def test_core_alone_draws(name):
    done = subprocess.run([sys.executable, "-c", CORE_ONLY, name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_package_lists_its_exports():
    assert dir(cap2im) == sorted(cap2im.__all__)
    assert all(hasattr(cap2im, name) for name in cap2im.__all__)


def test_the_train_extra_includes_the_digits():
    extras = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(requirement.startswith("scikit-learn") for requirement in extras["train"])


def test_test_names_are_short():
    names = [
        node.name
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    ]
    assert len(names) > 500
    assert [name for name in names if len(name) > 60] == []
