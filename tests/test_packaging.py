"""What is published has all that it needs and nothing else, and installs and runs."""

import email
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
NOT_SOURCE = shutil.ignore_patterns("__pycache__", "*.so")
# Run where the package is installed, with no other folder of it in sight.
USE = """
import pathlib, sys
import keras, numpy as np
import sparsenet_tf as stf
from sparsenet_tf.experiments import lenet_300_100, load
from sparsenet_tf.kernels.native import load_ops

where = pathlib.Path(stf.__file__)
assert pathlib.Path(sys.prefix) in where.parents, where
data = load("mnist_5k")
assert data.x_train.shape == (4000, 28, 28, 1), data.x_train.shape
model = stf.sparsify(lenet_300_100(seed=0))
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.SGD(0.1), loss)
schedule = stf.pruning.ConstantSparsity(0.9, begin_step=3)
callback = stf.pruning.PruningCallback(schedule)
x, y = data.x_train[:500], data.y_train[:500]
model.fit(x, y, batch_size=100, verbose=0, callbacks=[callback])
kernel = np.asarray(model.get_layer("dense1").kernel)
assert np.count_nonzero(kernel) == 23520, np.count_nonzero(kernel)
print("native" if load_ops() else "portable")
"""
BUILD_NATIVE = "sparsenet_tf.kernels.native.build"


def run(*command, cwd=None, **environ):
    """Runs a command, and gives what it printed."""
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environ}
    environ.pop("PYTHONPATH", None)
    command = [str(part) for part in command]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=cwd)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def no_compiler(tmp_path_factory):
    """Settings under which no C++ compiler is found: to compile takes a minute."""
    return {"PATH": str(tmp_path_factory.mktemp("empty")), "CXX": ""}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what is built, among files that are to stay behind."""
    folder = tmp_path_factory.mktemp("source")
    for name in PARTS:
        shutil.copy(ROOT / name, folder)
    for name in ("sparsenet_tf", "tests", "docs", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=NOT_SOURCE)
    native = folder / "sparsenet_tf" / "kernels" / "native"
    strays = [
        folder / "results" / "accuracy.png",
        folder / "sparsenet_tf" / "experiments" / "results.json",
        folder / "sparsenet_tf" / "experiments" / "mnist_5k" / "other.csv",
        native / "_ops_tf1.0.0.so",
        native / "sparse.o",
    ]
    for path in strays:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"stray")
    return folder


@pytest.fixture(scope="module")
def built(source, no_compiler, tmp_path_factory):
    """The source distribution, and the wheel that is built out of it."""
    if "CI" not in os.environ:  # there the extra `tests` is always installed
        pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder)
    run(*command, source, **no_compiler)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def package_files():
    """The package's files by suffix and place, as they are in the source tree."""
    wanted = {".py", ".cc", ".h", ".npz", ".md"}
    paths = (ROOT / "sparsenet_tf").rglob("*")
    return {p.relative_to(ROOT).as_posix() for p in paths if p.suffix in wanted}


def test_the_wheel_has_the_package_and_nothing_else(built):
    _, wheel = built
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        tags = next(archive.read(n) for n in names if n.endswith("/WHEEL")).decode()
    information = {name for name in names if ".dist-info/" in name}
    assert names - information == package_files()
    ends = {name.split(".dist-info/", 1)[1] for name in information}
    notice = "sparsenet_tf/experiments/mnist_5k/README.md"
    assert ends == {
        *("METADATA", "RECORD", "WHEEL", "top_level.txt", "licenses/LICENSE"),
        f"licenses/{notice}",
    }
    # Without operations it is one for all; with them see the slow test.
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "Root-Is-Purelib: true" in tags and "Tag: py3-none-any" in tags


def test_the_sdist_has_what_builds_and_nothing_else(built):
    sdist, _ = built
    with tarfile.open(sdist) as archive:
        files = [member.name for member in archive if member.isfile()]
    names = {name.split("/", 1)[1] for name in files}
    generated = {n for n in names if ".egg-info/" in n} | {"PKG-INFO", "setup.cfg"}
    assert names - generated == package_files() | set(PARTS)


def environment(folder, *, sees_ours):
    """Creates an empty environment; gives its Python and how to install into it."""
    venv.create(folder, with_pip=False)
    python = next(folder.glob("[bS][ic][nr]*/python*"))
    if sees_ours:
        where = "import sysconfig; print(sysconfig.get_path('purelib'))"
        library = run(python, "-c", where)
        # The environment's own packages come first, and editable ones are not seen.
        ours = [p for p in sys.path if Path(p).name.endswith("-packages")]
        Path(library.strip(), "ours.pth").write_text("\n".join(ours))
    return python, (sys.executable, "-m", "pip", "--python", python, "install", "-q")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sdist", "wheel"])
def test_it_installs_and_runs(built, kind, no_compiler, tmp_path):
    sdist, wheel = built
    python, install = environment(tmp_path / "venv", sees_ours=True)
    options = ("--no-deps", "--no-index", "--no-build-isolation")
    run(*install, *options, sdist if kind == "sdist" else wheel, **no_compiler)
    assert "portable" in run(python, "-I", "-c", USE)
    said = run(python, "-I", "-m", BUILD_NATIVE, **no_compiler)
    assert "no C++ compiler found" in said and "Everything works without" in said


def test_metadata(built):
    _, wheel = built
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    extras = metadata.get_all("Provides-Extra")
    assert [extra for extra in extras if f"`[{extra}]`" not in readme] == []
    assert metadata["License-Expression"] == "Apache-2.0 AND CC-BY-SA-3.0"


@pytest.mark.slow
def test_it_installs_with_all_that_it_needs(built, tmp_path):
    _, wheel = built
    python, install = environment(tmp_path / "venv", sees_ours=False)
    run(*install, wheel)
    assert "portable" in run(python, "-I", "-c", USE)
    assert "Built" in run(python, "-I", "-m", BUILD_NATIVE)
    assert "native" in run(python, "-I", "-c", USE)


@pytest.mark.slow
def test_the_command_in_a_clone_builds_for_what_is_installed(built, source, tmp_path):
    _, wheel = built
    python, install = environment(tmp_path / "venv", sees_ours=True)
    run(*install, "--no-deps", "--no-index", wheel)
    said = run(python, "-m", BUILD_NATIVE, cwd=source)
    assert said.count("Built ") == 2 and str(source) in said
    assert "native" in run(python, "-I", "-c", USE)


@pytest.mark.slow
def test_with_a_compiler_and_tensorflow_the_sdist_installs_operations(built, tmp_path):
    sdist, _ = built
    python, install = environment(tmp_path / "venv", sees_ours=True)
    run(*install, "--no-deps", "--no-index", "--no-build-isolation", sdist)
    (record,) = (tmp_path / "venv").rglob("sparsenet_tf-*.dist-info/WHEEL")
    assert "Root-Is-Purelib: false" in record.read_text()
    assert "-any" not in record.read_text()
    assert "native" in run(python, "-I", "-c", USE)
