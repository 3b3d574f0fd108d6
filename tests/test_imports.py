"""The package keeps to the layout's one direction of imports."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "sparsenet_tf"
MAX_LINES = 400

# A module imports from its own package and from those before it. "" is the top
# level, whose names are what users see; the experiments are such users.
ORDER = (
    "topology",
    "kernels",
    "layers",
    "pruning",
    "transform",
    "visualization",
    "training",
    "interop",
    "",
    "experiments",
)

# Where alone a library may be imported: files, or folders, which end in a slash.
ONLY_IN = {
    "tensorflow": (
        "kernels/sparse.py",
        "kernels/dead_graphs.py",
        "kernels/gradients.py",
        "kernels/native/",
        "kernels/tracing.py",
        "transform/export.py",
        "training/fused_update.py",
        "training/loop.py",
        "training/sparsity_logger.py",
        "interop/",
        "experiments/data.py",
    ),
    "tensorflow_model_optimization": ("interop/tfmot.py",),
    "tf_keras": ("interop/tfmot.py",),
}

# Extras, which a plain `import sparsenet_tf` must not need.
EXTRAS = {
    "matplotlib",
    "tensorflow_datasets",
    "tensorflow_model_optimization",
    "tf_keras",
}


def imported_modules(path: PurePosixPath, source: str) -> list[tuple[int, str]]:
    """Lists (line, absolute dotted name) of all that a module imports.

    Args:
        path: The module's path inside the package, such as `layers/masked.py`.
        source: Its text.
    """
    folders = ("sparsenet_tf", *path.parent.parts)
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = folders[: len(folders) + 1 - node.level] if node.level else ()
            base = ".".join([*start, *filter(None, [node.module])])
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            value = getattr(node.args[0], "value", None)
            if name in ("import_module", "__import__") and isinstance(value, str):
                found.append((node.lineno, value))
    return found


def violations(path: str, source: str) -> list[str]:
    """Lists a module's imports that the layout forbids."""
    path = PurePosixPath(path)
    own = path.parts[0] if len(path.parts) > 1 else ""
    if own not in ORDER:
        return [f"{path}: the package {own!r} has no place in the order"]
    found = []
    for line, module in imported_modules(path, source):
        library, *inner = module.split(".")
        if library == "sparsenet_tf":
            if inner[:1] == ["version"]:
                continue
            target = inner[0] if inner and inner[0] in ORDER else ""
            allowed = ORDER.index(target) <= ORDER.index(own)
        elif own == "topology":
            allowed = library == "numpy" or library in sys.stdlib_module_names
        else:
            allowed = library not in ONLY_IN or any(
                str(path).startswith(place) for place in ONLY_IN[library]
            )
        if not allowed:
            found.append(f"{path}:{line}: imports {module}")
    return found


def package_files(*suffixes: str) -> list[str]:
    paths = [path for path in PACKAGE.rglob("*") if path.suffix in suffixes]
    return sorted(path.relative_to(PACKAGE).as_posix() for path in paths)


def test_the_package_is_found():
    assert "__init__.py" in package_files(".py")


@pytest.mark.parametrize("path", package_files(".py"))
def test_imports_go_one_way(path):
    source = (PACKAGE / path).read_text(encoding="utf-8")
    assert violations(path, source) == []


@pytest.mark.parametrize("path", package_files(".py", ".cc", ".h"))
def test_files_stay_short(path):
    lines = (PACKAGE / path).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_LINES


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("topology/random.py", "import keras"),
        ("topology/random.py", "def f():\n    from keras import ops"),
        ("topology/random.py", "from sparsenet_tf.kernels import radix"),
        ("topology/random.py", "from ..kernels.radix import product"),
        ("layers/masked.py", "from .. import pruning"),
        ("layers/masked.py", "from sparsenet_tf import pruning"),
        ("layers/masked.py", "import sparsenet_tf.pruning.callback"),
        ("layers/masked.py", "import sparsenet_tf as stf"),
        ("layers/masked.py", "from sparsenet_tf import summary"),
        ("layers/masked.py", "import tensorflow as tf"),
        ("layers/masked.py", "from tensorflow.python.ops import math_ops"),
        ("layers/masked.py", "import importlib\nimportlib.import_module('tf_keras')"),
        ("training/retrain.py", "from sparsenet_tf.interop import tfmot"),
        ("training/retrain.py", "import numpy, tensorflow"),
        ("interop/other.py", "import tensorflow_model_optimization as tfmot"),
        ("interop/tfmot.py", "from sparsenet_tf.experiments import runs"),
        ("kernels/sparse.py", "import tf_keras"),
        ("__init__.py", "from sparsenet_tf.experiments import runs"),
        ("unplanned/thing.py", ""),
    ],
)
def test_the_checker_finds_violations(path, source):
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("topology/random.py", "import math\nimport numpy as np"),
        ("topology/random.py", "from .measure import density\nfrom . import measure"),
        ("layers/masked.py", "import keras\nfrom ..kernels import radix"),
        ("layers/masked.py", "from sparsenet_tf.version import __version__"),
        ("layers/masked.py", "from sparsenet_tf import topology"),
        ("kernels/sparse.py", "import tensorflow as tf"),
        ("kernels/native/build.py", "import tensorflow as tf"),
        ("interop/tfmot.py", "import tf_keras\nfrom sparsenet_tf import pruning"),
        ("experiments/data.py", "import tensorflow_datasets as tfds"),
        ("experiments/runs.py", "import sparsenet_tf as stf"),
        ("__init__.py", "from sparsenet_tf.training.retrain import retrain"),
    ],
)
def test_the_checker_accepts_the_layout(path, source):
    assert violations(path, source) == []


def state_after_import(name: str) -> dict:
    """Imports a module in a fresh process; gives its environment and the like."""
    script = (
        f"import json, os, sys, {name}\n"
        "from absl import flags\n"
        "state = dict(environ=dict(os.environ), modules=sorted(sys.modules),"
        " flags=sorted(flags.FLAGS))\n"
        "print(json.dumps(state))"
    )
    environ = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_has_no_side_effects():
    keras = state_after_import("keras")
    ours = state_after_import("sparsenet_tf")
    assert ours["environ"] == keras["environ"]
    assert set(ours["flags"]) <= set(keras["flags"])
    assert EXTRAS & (set(ours["modules"]) - set(keras["modules"])) == set()


def test_no_function_of_the_interface_has_more_than_seven_arguments():
    import inspect

    import sparsenet_tf as stf

    modules = (stf, stf.topology, stf.pruning, stf.transform, stf.training)
    for module in (*modules, stf.interop, stf.visualization):
        for name, value in vars(module).items():
            if not callable(value) or name.startswith("_"):
                continue
            arguments = [
                p
                for p in inspect.signature(value).parameters.values()
                if p.kind is not p.VAR_KEYWORD  # which are those of Keras' `fit`
            ]
            assert len(arguments) <= 7, f"{module.__name__}.{name}"


PLACES = {
    "RigL": "sparsenet_tf.pruning.RigL",
    "Masked": "sparsenet_tf.layers.Masked",
    "SparseDense": "sparsenet_tf.layers.SparseDense",
    "RadixNet": "sparsenet_tf.topology.RadixNet",
    "load_compact": "sparsenet_tf.transform.load_compact",
    "from_tfmot": "sparsenet_tf.interop.tfmot.from_tfmot",
    "lenet_300_100": "sparsenet_tf.experiments.lenet_300_100",
    "sparsfy": "sparsenet_tf.sparsify",
    "rigl": "sparsenet_tf.pruning.RigL",
}
TFMOT = {
    "prune_low_magnitude": "`sparsify(model)`",
    "strip_pruning": "`strip(model)`",
    "prune_scope": "not needed",
    "UpdatePruningStep": "`PruningCallback(schedule)`",
    "PruningSummaries": "`SparsityLogger(log_dir)`",
    "PrunableLayer": "`get_prunable_weights`",
}


@pytest.mark.parametrize("name", PLACES)
def test_a_name_that_is_elsewhere_says_where(name):
    import sparsenet_tf as stf

    with pytest.raises(AttributeError, match=f"'{name}'.*`{PLACES[name]}`"):
        getattr(stf, name)


@pytest.mark.parametrize("name", TFMOT)
def test_names_of_tfmot_say_what_they_are_here(name):
    import sparsenet_tf as stf

    with pytest.raises(AttributeError) as caught:
        getattr(stf, name)
    assert TFMOT[name] in str(caught.value)
    assert (ROOT / "docs" / "migrate-from-tfmot.md").is_file()
    assert "docs/migrate-from-tfmot.md" in str(caught.value)


def test_other_names_are_missing_as_in_any_module():
    import sparsenet_tf as stf

    for name in ("qwerty", "__wrapped__", "_private"):
        assert not hasattr(stf, name)
        with pytest.raises(AttributeError, match=f"has no attribute '{name}'$"):
            getattr(stf, name)


def test_the_names_of_every_example_are_at_the_top():
    import sparsenet_tf as stf

    for name in (
        *("ConstantSparsity", "PolynomialDecay", "PruningCallback"),
        "prune_one_shot",
    ):
        assert getattr(stf, name) is getattr(stf.pruning, name)
        assert name in dir(stf)


def test_the_loop_is_seen_where_it_runs():
    import keras

    import sparsenet_tf as stf

    runs = keras.backend.backend() == "tensorflow"
    assert ("fit" in dir(stf.training)) == runs
    with pytest.raises(AttributeError) as caught:
        stf.fit  # noqa: B018
    assert ("it is `sparsenet_tf.training.fit`" in str(caught.value)) == runs


def test_asking_for_a_missing_name_imports_nothing():
    script = (
        "import sys, sparsenet_tf as stf\n"
        "hasattr(stf, 'qwerty'), hasattr(stf, 'lenet_5')\n"
        "assert 'sparsenet_tf.experiments' not in sys.modules\n"
        "from sparsenet_tf import experiments\n"
        "assert stf.experiments is experiments"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
