"""What the tables of wrong calls share: models to be refused, and the check of a row.

A table is a dict from a public callable to rows `(what is wrong, argument, call)`. The
call, a function of the callable, must raise a TypeError or ValueError that names the
argument and says what came.
"""

import dataclasses
import functools
import inspect

import keras
import numpy as np
import pytest

import sparsenet_tf as stf
from sparsenet_tf.layers import tree
from sparsenet_tf.layers.mask_values import to_numpy

L = keras.layers
NAN, INF = float("nan"), float("inf")
RAGGED = [[1, 0], [1]]
X, Y = np.ones((8, 4), "float32"), np.ones((8, 3), "float32")
OF_A_MODEL = [
    ("no model", "model", None),
    ("a string as model", "model", "model"),
    ("a class as model", "model", keras.Sequential),
    ("a layer as model", "model", L.Dense(3)),
]


@dataclasses.dataclass(frozen=True)
class Says:
    """In place of an argument: what a good message of Keras or Python says."""

    words: tuple

    def __init__(self, *words):
        object.__setattr__(self, "words", words)


@dataclasses.dataclass(frozen=True)
class Missing:
    """In place of an argument: one that names a file, which is not there."""

    argument: str


def not_models(*arguments, **others):
    """Rows for a first argument that must be a model."""
    return [
        (what, name, lambda f, value=value: f(value, *arguments, **others))
        for what, name, value in OF_A_MODEL
    ]


def parameters(table):
    """The rows of a table as parameters of a test."""
    return [
        pytest.param(function, argument, call, id=f"{function.__qualname__}: {what}")
        for function, rows in table.items()
        for what, argument, call in rows
    ]


def check(function, argument, call):
    """Make a wrong call, and see what it says and that it changed no shared model."""
    _used.clear()
    kinds = (OSError,) if isinstance(argument, Missing) else (TypeError, ValueError)
    with pytest.raises(kinds) as caught:
        call(function)
    text = str(caught.value)
    if isinstance(argument, Says):
        assert all(word in text for word in argument.words), text
    else:
        name = getattr(argument, "argument", argument)
        assert f"`{name}`" in text or f"`{name}[" in text, text
        assert "Received" in text, text
    for kind in _used - {"trained"}:
        model, before = _made(kind)
        assert_same(_state(model), before)


def uncovered(modules, *tables):
    """Public functions, classes and constructors of modules that are in no table.

    Results, dataclasses that a function returns, are not made by users.
    """
    known = {f for table in tables for f in table}
    found = []
    for module in modules:
        for name in getattr(module, "__all__", [n for n in dir(module) if n[0] != "_"]):
            value = getattr(module, name)
            if inspect.ismodule(value) or not callable(value):
                continue
            of_class = (
                [
                    getattr(value, n)
                    for n, member in vars(value).items()
                    if isinstance(member, classmethod)
                    and n[0] != "_"
                    and n not in ("from_config", "like")
                ]
                if inspect.isclass(value)
                else []
            )
            found += [f for f in [value, *of_class] if f not in known]
    return [f.__qualname__ for f in found]


_used = set()


def shared(kind):
    """One of the models below, made once, which a wrong call must not change."""
    _used.add(kind)
    return _made(kind)[0]


@functools.cache
def _made(kind):
    model = globals()[f"make_{kind}"]()
    return model, _state(model)


def _state(model):
    return {
        "layers": [(path, type(layer).__name__) for path, layer in tree.walk(model)],
        "weights": [to_numpy(variable).copy() for variable in model.variables],
        "optimizer": id(model.optimizer) if model.compiled else None,
    }


def assert_same(after, before):
    """Compare what `_state` found."""
    assert after["layers"] == before["layers"]
    assert after["optimizer"] == before["optimizer"]
    for new, old in zip(after["weights"], before["weights"], strict=True):
        np.testing.assert_array_equal(new, old)


def make_uncompiled():
    """Kernels "hidden/kernel" (4, 5) and "out/kernel" (5, 3)."""
    return keras.Sequential(
        [keras.Input((4,)), L.Dense(5, name="hidden"), L.Dense(3, name="out")],
        name="net",
    )


def make_dense():
    """The same, compiled."""
    model = make_uncompiled()
    model.compile("sgd", "mse")
    return model


def make_masked():
    """The same with masks that have zeros."""
    return stf.pruning.prune_one_shot(make_dense(), 0.5)


def make_masked_uncompiled():
    """With masks, not compiled."""
    return stf.pruning.prune_one_shot(make_uncompiled(), 0.5)


def make_sparse():
    """Layers that hold their nonzeros alone."""
    return stf.to_sparse(make_masked(), layers="all")


def make_with_nan():
    """With a weight that is NaN."""
    model = make_dense()
    model.layers[0].kernel.assign(np.full((4, 5), NAN))
    return model


def make_unbuilt():
    """Without weights yet."""
    return keras.Sequential([L.Dense(3, name="out")], name="unbuilt")


def make_empty():
    """Without any layer."""
    return keras.Sequential(name="empty")


def make_no_kernels():
    """A layer without weights."""
    model = keras.Sequential([keras.Input((4,)), L.ReLU()], name="no_kernels")
    model.compile("sgd", "mse")
    return model


def make_lstm():
    """A layer for which there is no sparse kernel."""
    return keras.Sequential([keras.Input((4, 2)), L.LSTM(3, name="lstm")], name="lstm")


def make_trained():
    """As "masked", for a training that comes to an update; its weights may change."""
    return make_masked()


def make_of_zeros():
    """Masked, on whose weights the loss does not depend for inputs of zero."""
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, name="out")])
    model.compile("sgd", "mse")
    return stf.sparsify(model)


def make_changed():
    """For a test that changes it."""
    return make_dense()


class Subclassed(keras.Model):
    """A model that is changed in place."""

    def __init__(self):
        super().__init__(name="subclassed")
        self.hidden, self.out = L.Dense(5, name="hidden"), L.Dense(3, name="out")

    def build(self, input_shape):
        """Build the layers."""
        self.hidden.build((None, 4))
        self.out.build((None, 5))
        self.built = True

    def call(self, x):
        """Return the outputs."""
        return self.out(self.hidden(x))


def make_subclassed():
    """Built and compiled."""
    model = Subclassed()
    model.compile("sgd", "mse")
    model(X)
    return model


class SubclassedWithSize(Subclassed):
    """A model whose config does not have what its constructor needs."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def get_config(self):
        """Leave the size out."""
        return {}


def make_subclassed_with_size():
    """Built, and not to be rebuilt."""
    model = SubclassedWithSize(5)
    model(X)
    return model


@functools.cache
def built_dense():
    """A layer (4, 5)."""
    layer = L.Dense(5, name="dense")
    layer.build((None, 4))
    return layer


@functools.cache
def built_conv():
    """A layer (3, 3, 4, 6)."""
    layer = L.Conv2D(6, 3, name="conv")
    layer.build((None, 8, 8, 4))
    return layer


@functools.cache
def masked_layer():
    """A layer (4, 5) with a mask of ones."""
    layer = stf.layers.Masked(L.Dense(5, name="dense"))
    layer.build((None, 4))
    return layer
