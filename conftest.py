"""For every test and doctest: quiet TensorFlow, fixed seeds, a clean Keras."""

import os
from fnmatch import fnmatchcase

# Read when TensorFlow loads.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if "PYTEST_XDIST_WORKER" in os.environ:
    # There are as many workers as cores; more threads would only wait for each other.
    for name in ("TF_NUM_INTRAOP", "TF_NUM_INTEROP", "OMP_NUM"):
        os.environ.setdefault(f"{name}_THREADS", "1")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

# What needs TensorFlow, and is left out where Keras has another backend.
OF_TENSORFLOW = [
    *(
        f"tests/test_{topic}.py"
        for topic in (
            "applications",
            "dead_graphs",
            "disk_faults",
            "distribute",
            "docs",
            "experiment_runs",
            "export_tensorflow",
            "from_tfmot",
            "fused_update",
            "killed",
            "loop",
            "methods",
            "models_tensorflow",
            "native",
            "native_sparse",
            "native_sparse_conv",
            "packaging",
            "radix_graphs",
            "readme",
            "resume_tensorflow",
            "sanitizers",
            "saved_model",
            "sparsity_logger",
            "stateful_layers",
            "tfmot",
            "wrong_calls_tensorflow",
        )
    ),
    "sparsenet_tf/interop",
    "sparsenet_tf/kernels/native",
    "sparsenet_tf/training/fused_update.py",
    "sparsenet_tf/training/loop.py",
    "sparsenet_tf/training/sparsity_logger.py",
]

# Scripts that tests start in processes of their own, and that `make fuzz` starts.
collect_ignore = ["tests/distributed", "tests/fuzz", "tests/killed"]
if keras.backend.backend() != "tensorflow":
    collect_ignore += OF_TENSORFLOW


@pytest.hookimpl(tryfirst=True)  # before `-m "not slow"` takes what is slow away
def pytest_collection_modifyitems(config, items):
    """Makes slow each case of a test that its mark `often` does not name."""
    unused = {}
    for item in items:
        mark = item.get_closest_marker("often")
        if mark is None:
            continue
        test = item.nodeid.partition("[")[0]
        matched = {p for p in mark.args if fnmatchcase(item.callspec.id, p)}
        unused[test] = unused.get(test, set(mark.args)) - matched
        if not matched:
            item.add_marker("slow")
    # With other backends there may be fewer cases, and some alone may be asked for.
    if keras.backend.backend() == "tensorflow" and "::" not in str(config.args):
        wrong = {test: patterns for test, patterns in unused.items() if patterns}
        if wrong:
            raise pytest.UsageError(f"`often` names no case of these tests: {wrong}")


def pytest_terminal_summary(terminalreporter):
    """Says what was left out, which is no test that could be counted as skipped."""
    if keras.backend.backend() != "tensorflow":
        terminalreporter.write_line(
            f"left out, since they are of TensorFlow alone: {len(OF_TENSORFLOW)} files "
            "and folders, which conftest.py names"
        )


@pytest.fixture(autouse=True)
def clean_state():
    """Seeds every test, and afterwards undoes what it set globally."""
    legacy_keras = os.environ.get("TF_USE_LEGACY_KERAS")
    keras.utils.set_random_seed(0)
    yield
    keras.utils.clear_session(free_memory=False)
    keras.config.set_dtype_policy("float32")
    if legacy_keras is None:
        os.environ.pop("TF_USE_LEGACY_KERAS", None)
    else:
        os.environ["TF_USE_LEGACY_KERAS"] = legacy_keras


@pytest.fixture
def float64():
    """Gives JAX float64, which it has only where that is asked for."""
    if keras.backend.backend() != "jax":
        yield
        return
    import jax

    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(autouse=True)
def doctest_names(doctest_namespace):
    """Gives doctests the names that the documentation uses."""
    import sparsenet_tf as stf

    doctest_namespace.update(keras=keras, np=np, stf=stf)
