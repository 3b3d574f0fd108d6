"""For every test and doctest: quiet TensorFlow, fixed seeds, a clean Keras."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Read when TensorFlow loads.

import keras  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

# Scripts that tests start in processes of their own.
collect_ignore = ["tests/distributed"]


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
