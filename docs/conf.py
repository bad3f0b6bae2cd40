"""The documentation site: `sphinx-build -W docs docs/_build`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for benchmarks
sys.path.insert(0, str(Path(__file__).parent))  # for the modules beside this file

from cap2im._version import __version__

project = "cap2im"
author = "the cap2im contributors"
copyright = "the cap2im contributors, MIT licence"
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "mathml",
    "reference_pages",
    "live_page",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
nitpicky = False  # types of third parties have no page here

# text
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "attrs_inline"]
myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp, .go"

# notebooks: executed at every build, and an error in one ends the build
os.environ |= {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TTY_COMPATIBLE": "0", "NO_COLOR": "1"}  # pages show no moving bars
os.environ["OMP_NUM_THREADS"] = "1"  # notebooks run beside each other
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True

# reference
default_role = "code"  # names in docstrings stand in single backticks
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": False, "show-inheritance": True}

# looks
html_theme = "furo"
html_math_renderer = "mathml"
html_title = f"cap2im {release}"
html_static_path: list[str] = []
html_theme_options = {"source_directory": "docs/"}


def spread_notebooks(app: Any, environment: Any, names: list[str]) -> None:
    """Reorder pages so that processes, which read a few neighbours each, share the notebooks."""
    names[:] = [name for first in range(4) for name in names[first::4]]


def setup(app: Any) -> None:
    """Register the event handler."""
    app.connect("env-before-read-docs", spread_notebooks)
