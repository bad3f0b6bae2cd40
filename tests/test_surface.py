"""Walks the public surface: what exists is described, imports follow the architecture, and the core stays small."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cap2im.pipeline import BUNDLED

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "cap2im"
MODULES = sorted(SOURCE.rglob("*.py"))

# package -> what it must not import. `cli` and `serve` use everything, and nothing imports them.
FORBIDDEN = {
    "models": ("data", "training", "metrics", "convert", "config", "checkpoint", "pipeline", "drawing", "randomness", "serve", "cli"),
    "data": ("models", "training", "metrics", "convert", "config", "checkpoint", "pipeline", "drawing", "serve", "cli"),
    "convert": ("training", "metrics", "pipeline", "drawing", "serve", "cli"),
    "training": ("pipeline", "drawing", "serve", "cli"),
    "metrics": ("training", "serve", "cli"),
    "drawing": ("models", "data", "training", "metrics", "convert", "config", "checkpoint", "pipeline", "serve", "cli"),
    "checkpoint": ("models", "data", "training", "metrics", "convert", "pipeline", "drawing", "serve", "cli"),
    "config": ("training", "metrics", "convert", "pipeline", "drawing", "checkpoint", "serve", "cli"),
    "pipeline": ("training", "metrics", "figures", "serve", "cli"),
    "figures": ("training", "convert", "serve", "cli"),
    "generation": ("training", "convert", "figures", "serve", "cli"),
    "hub": ("models", "data", "training", "metrics", "convert", "config", "checkpoint", "pipeline", "drawing", "serve", "cli"),
    "tables": ("training", "convert", "config", "checkpoint", "pipeline", "drawing", "serve", "cli"),
    "sentences": ("training", "metrics", "convert", "config", "pipeline", "drawing", "serve", "cli"),
    "randomness": ("models", "data", "training", "metrics", "serve", "cli"),
    "files": ("models", "data", "training", "metrics", "convert", "config", "checkpoint", "pipeline", "drawing", "serve", "cli"),
    "arrays": ("models", "data", "training", "metrics", "convert", "config", "checkpoint", "pipeline", "drawing", "serve", "cli"),
    "loading": ("training", "metrics", "convert", "config", "pipeline", "drawing", "serve", "cli"),
    "serve": ("training", "metrics", "convert", "figures", "generation", "cli"),
}


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_arrows(path):
    part = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    found = {name.split(".")[1] for name in imports(path) if name.startswith("cap2im.")}
    assert not found & set(FORBIDDEN.get(part, ()))
    if part == "models":
        outside = {name.split(".")[0] for name in imports(path)} - {"cap2im", "__future__"} - set(sys.stdlib_module_names)
        assert outside <= {"torch", "pydantic"}


def test_every_package_has_its_arrows():
    parts = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in MODULES}
    assert parts - {"__init__", "__main__", "cli", "recipes"} == set(FORBIDDEN)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_module_and_public_name_has_a_docstring(path):
    tree = ast.parse(path.read_text("utf-8"))
    if path.name == "__init__.py" and not tree.body:
        return
    missing = [] if ast.get_docstring(tree) else ["the module"]
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_") and not ast.get_docstring(node):
            missing.append(node.name)
    # names that say all there is to say
    assert set(missing) <= {"sha256", "held_out", "Section", "DigitReaderRecipe"}


def test_bundled_files_are_small_and_have_cards():
    for card in BUNDLED.glob("*/README.md"):
        text = card.read_text("utf-8")
        assert re.search(r"command \| `(cap2im|accelerate)", text), card
        assert re.search(r"seed.* \| \d", text), card
    folders = [folder for folder in BUNDLED.iterdir() if folder.is_dir()]
    assert folders
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
        assert (folder / "model.safetensors").stat().st_size <= 6_000_000


CORE_ONLY = """
import sys
blocked = {"accelerate", "tensorboard", "sklearn", "matplotlib", "scipy", "torchmetrics", "datasets", "h5py", "pytest", "transformers"}
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"{name} is not part of the core")
sys.meta_path.insert(0, Block())
import cap2im
assert "torch" not in sys.modules and "numpy" not in sys.modules, "importing the package is cheap"
drawing = cap2im.draw("the digit three is at the top of the digit one")[0]
assert drawing.canvases.shape == (32, 60, 60, 1)
"""


def test_core_alone_draws():
    done = subprocess.run([sys.executable, "-c", CORE_ONLY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
