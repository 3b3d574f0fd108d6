"""The web pages are made without a warning and describe every public name."""

import importlib
import inspect
import os
import subprocess
import sys
import types
import zlib
from pathlib import Path

import pytest

import sparsenet_tf

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "sparsenet_tf",
    *(
        f"sparsenet_tf.{name}"
        for name, value in vars(sparsenet_tf).items()
        if hasattr(value, "__path__")
    ),
    "sparsenet_tf.interop.tfmot",
    "sparsenet_tf.experiments",
)
# Not an attribute before it is asked for, since it imports TensorFlow.
LATE = {"sparsenet_tf.training": ["fit"]}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A folder of the pages, made as `make docs` makes them."""
    if "CI" not in os.environ:  # there the extra `tests` is always installed
        pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("docs")
    made = subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"),
            *("-d", str(folder / "doctrees"), "docs", str(folder / "html")),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    return folder / "html"


def public_names():
    """Every public name and what it stands for."""
    found = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        names = getattr(module, "__all__", vars(module))
        for name in [*names, *LATE.get(package, ())]:
            value = getattr(module, name)
            if not name.startswith("_") and not isinstance(value, types.ModuleType):
                found[f"{package}.{name}"] = value
    return found


def described(pages):
    """The names that the pages describe, by Sphinx' own list."""
    data = (pages / "objects.inv").read_bytes()
    lines = zlib.decompress(data.split(b"\n", 4)[4]).decode().splitlines()
    return {name for name, kind, *_ in map(str.split, lines) if kind.startswith("py:")}


def test_every_public_name_is_described_once(pages):
    names, there = public_names(), described(pages)
    assert len(names) > 30
    where = {}
    for name, value in names.items():
        where.setdefault(id(value), []).append(name)
    counts = {tuple(found): len(there & set(found)) for found in where.values()}
    # One that is missing belongs into docs/api, in the page of its package.
    assert {found: count for found, count in counts.items() if count != 1} == {}


def test_every_public_name_has_an_example():
    values = {id(value): (name, value) for name, value in public_names().items()}
    callables = [(name, v) for name, v in values.values() if callable(v)]
    assert [name for name, v in callables if ">>>" not in inspect.getdoc(v)] == []


def test_every_guide_has_a_page(pages):
    guides = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert "prune-my-model" in guides
    assert {path.stem for path in pages.glob("*.html")} >= guides


def test_docstrings_look_as_they_should(pages):
    page = "".join(
        (pages / "api" / f"{name}.html").read_text(encoding="utf-8")
        for name in ("top-level", "pruning")
    )
    # Lists of arguments, examples in colours, code in single backticks.
    assert "<strong>final_sparsity</strong>" in page
    assert '<span class="gp">&gt;&gt;&gt; </span>' in page
    assert "model.fit</span>" in page
    # A formula is a block of its own, a colon in what is returned no type.
    assert '<pre><span></span><span class="n">s</span><span class="p">(</span>' in page
    for path in (pages / "api").glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert "<p>&gt;&gt;&gt;" not in text and "Example:" not in text, path.name
        assert "Return type" not in text and "<blockquote>" not in text, path.name
