"""What error messages show of values that may be large."""

import keras
import numpy as np
import pytest

from sparsenet_tf.topology import checks
from sparsenet_tf.topology.checks import shown

LARGE = np.zeros((300, 100), "float32")


@pytest.mark.parametrize(
    "value",
    [None, "name", 3, 0.5, {"a": 1}, [1, 2], (1,), np.arange(3), np.float32(2)],
    ids=str,
)
def test_small_values_are_shown_whole(value):
    assert shown(value) == repr(value)


@pytest.mark.parametrize(
    "make",
    [
        lambda a: a,
        lambda a: [a, a],
        lambda a: {"kernel": a},
        lambda a: (1, {"kernel": [a]}),
        keras.ops.convert_to_tensor,
        keras.Variable,
    ],
)
def test_arrays_are_shown_by_shape(make):
    text = shown(make(LARGE))
    assert "of shape (300, 100) and dtype" in text and "float32" in text
    assert "0.0" not in text and "0., 0." not in text and len(text) < 200


@pytest.mark.parametrize(
    "value", ["a" * 10**6, list(range(10**6)), {i: i for i in range(10**5)}, object]
)
def test_other_values_are_cut(value):
    assert len(shown(value)) <= 210


@pytest.mark.parametrize(
    "call",
    [
        lambda: checks.check_integer(LARGE, "nodes", 1),
        lambda: checks.check_number(LARGE, "power", "more than 0"),
        lambda: checks.check_flag(LARGE, "exact"),
        lambda: checks.check_path(LARGE),
        lambda: checks.as_generator(LARGE),
    ],
)
def test_messages_hold_no_whole_arrays(call):
    with pytest.raises(TypeError, match=r"Received: <ndarray of shape \(300, 100\)"):
        call()
