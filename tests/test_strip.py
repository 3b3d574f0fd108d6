"""Back to plain Keras: no masks, no trace of this package, the same numbers."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from backends import several_steps
from keras import layers

import sparsenet_tf as stf


class Net(keras.Model):
    def __init__(self):
        super().__init__(name="net")
        self.first = layers.Dense(4, name="first", kernel_constraint="non_neg")
        self.blocks = [layers.Dense(4, name=f"block{i}") for i in range(2)]
        self.by_name = {"out": layers.Dense(2, name="out")}

    def call(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.by_name["out"](x)


class Double(keras.layers.Layer):
    """A layer of the user's own, with a Dense below it."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense = layers.Dense(units, name="below")

    def build(self, shape):
        self.dense.build(shape)
        self.built = True

    def call(self, x):
        return 2 * self.dense(x)

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def sequential():
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(3, 3, name="conv", activation="relu"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(name="flat"),
            layers.Dense(5, name="a", activation="tanh"),
            layers.Dropout(0.5, name="drop"),
            layers.Dense(2, name="b"),
        ]
    )


def functional():
    inner = keras.Sequential(
        [
            keras.Input((4,), name="i"),
            layers.Dense(4, name="in1"),
            layers.Dense(4, name="in2"),
        ],
        name="inner",
    )
    x = keras.Input((4,), name="x")
    shared = layers.Dense(4, name="shared")
    y = layers.Add(name="add")([shared(x), shared(inner(x))])
    return keras.Model(x, layers.Dense(1, name="out")(y), name="outer")


def subclassed():
    model = Net()
    model(np.ones((1, 3), "float32"))
    return model


def recurrent():
    return keras.Sequential(
        [
            keras.Input((3, 4)),
            layers.Bidirectional(layers.LSTM(2, return_sequences=True), name="bi"),
            layers.TimeDistributed(layers.Dense(3, name="d"), name="time"),
            layers.GRU(2, name="gru"),
        ]
    )


MODELS = {
    "sequential": (sequential, (6, 6, 2)),
    "functional": (functional, (4,)),
    "subclassed": (subclassed, (3,)),
    "recurrent": (recurrent, (3, 4)),
}


def data(shape, n=5):
    return np.random.default_rng(0).normal(size=(n, *shape)).astype("float32")


def values(tensor):
    return keras.ops.convert_to_numpy(tensor)


def all_layers(model):
    return list(model._flatten_layers())


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_equal_and_zeros_are_kept(name):
    make, shape = MODELS[name]
    pruned = stf.pruning.prune_one_shot(make(), 0.6)
    x = data(shape)
    expected, masks = values(pruned(x)), stf.get_masks(pruned)
    plain = stf.strip(pruned)
    np.testing.assert_array_equal(values(plain(x)), expected)
    rows = stf.summary(plain, print_fn=None).kernels
    assert [row.path for row in rows] == list(masks)
    assert [row.nonzeros for row in rows] == [int(m.sum()) for m in masks.values()]


@pytest.mark.parametrize("name", MODELS)
def test_classes_names_and_weights_are_plain(name):
    make, _ = MODELS[name]
    keras.utils.set_random_seed(1)
    original = make()
    classes = [type(layer) for layer in all_layers(original)]
    names = [layer.name for layer in all_layers(original)]
    shapes = [tuple(w.shape) for w in original.weights]
    plain = stf.strip(stf.pruning.prune_one_shot(original, 0.6))
    assert [type(layer) for layer in all_layers(plain)] == classes
    assert [layer.name for layer in all_layers(plain)] == names
    assert [tuple(w.shape) for w in plain.weights] == shapes
    for weight in plain.weights:
        for part in (weight.constraint, weight.regularizer):
            assert not type(part).__module__.startswith("sparsenet_tf")
    with pytest.raises(ValueError, match="`model` must have masked kernels"):
        stf.get_masks(plain)


def test_automatic_names_of_inputs_stay():
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(2)(x))
    plain = stf.strip(stf.sparsify(model))
    assert [layer.name for layer in plain.layers] == [x.name for x in model.layers]


@pytest.mark.parametrize("make", [sequential, functional, recurrent])
def test_original_is_untouched(make):
    pruned = stf.pruning.prune_one_shot(make(), 0.6)
    before, masks = pruned.get_weights(), stf.get_masks(pruned)
    parts = [(type(layer), id(layer)) for layer in all_layers(pruned)]
    plain = stf.strip(pruned)
    assert plain is not pruned
    for weight in plain.weights:
        weight.assign(weight * 0 + 3)
    assert [(type(layer), id(layer)) for layer in all_layers(pruned)] == parts
    for old, new in zip(before, pruned.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    for path, mask in stf.get_masks(pruned).items():
        np.testing.assert_array_equal(mask, masks[path])
    pruned.compile("sgd", "mse", run_eagerly=True)
    x = data(pruned.input_shape[1:])
    pruned.fit(x, np.ones((5, *pruned.output_shape[1:])), verbose=0)
    for path, kernel in stf.layers.masked.masked_kernels(pruned).items():
        assert not values(kernel.kernel)[~masks[path]].any()


def test_subclassed_model_is_changed_in_place():
    pruned = stf.pruning.prune_one_shot(subclassed(), 0.6)
    assert stf.strip(pruned) is pruned
    assert type(pruned.first) is type(pruned.blocks[1]) is layers.Dense
    assert type(pruned.by_name["out"]) is layers.Dense
    assert isinstance(pruned.first.kernel.constraint, keras.constraints.NonNeg)
    assert pruned.blocks[0].kernel.constraint is None


def test_subclassed_model_trains_on_after_strip():
    model = subclassed()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x, y = data((3,)), np.ones((5, 2))
    pruned = stf.pruning.prune_one_shot(model, 0.6)
    pruned.fit(x, y, verbose=0)
    plain = stf.strip(pruned)
    with pytest.warns(UserWarning, match="training fills its zeros"):
        plain.fit(x, y, verbose=0)
    plain.fit(x, y, verbose=0)  # said once
    kernel = values(plain.by_name["out"].kernel)
    assert np.count_nonzero(kernel) == kernel.size  # no mask holds them any more


def test_users_constraint_and_regularizer_are_kept():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(5, kernel_constraint="non_neg", kernel_regularizer="l2"),
            layers.Dense(
                2, kernel_constraint=keras.constraints.MaxNorm(0.5), name="out"
            ),
        ]
    )
    pruned = stf.pruning.prune_one_shot(model, 0.5)
    plain = stf.strip(pruned)
    first, out = (layer.kernel for layer in plain.layers)
    assert isinstance(first.constraint, keras.constraints.NonNeg)
    assert isinstance(first.regularizer, keras.regularizers.L2)
    assert isinstance(out.constraint, keras.constraints.MaxNorm)
    assert out.constraint.max_value == 0.5
    plain.compile(keras.optimizers.SGD(1.0), "mse", run_eagerly=True)
    with pytest.warns(UserWarning, match="training fills its zeros"):
        plain.fit(data((4,)), -np.ones((5, 2)), epochs=3, verbose=0)
    assert values(first).min() >= 0
    assert np.linalg.norm(values(out), axis=0).max() <= 0.5 + 1e-5


def test_compiled_as_before_with_a_fresh_optimizer():
    model = functional()
    model.compile(
        keras.optimizers.Adam(0.0123),
        "mae",
        metrics=["mse"],
        steps_per_execution=several_steps(2),
    )
    pruned = stf.pruning.prune_one_shot(model, 0.5)
    x, y = data((4,), 8), np.ones((8, 1))
    pruned.fit(x, y, batch_size=2, verbose=0)
    plain = stf.strip(pruned)
    assert plain.compiled and plain.optimizer is not pruned.optimizer
    assert int(plain.optimizer.iterations) == 0
    assert float(plain.optimizer.learning_rate) == pytest.approx(0.0123)
    assert (plain.loss, plain.steps_per_execution) == ("mae", several_steps(2))
    expected = pruned.evaluate(x, y, verbose=0, return_dict=True)
    got = plain.evaluate(x, y, verbose=0, return_dict=True)
    assert got == pytest.approx(expected)


def test_not_compiled_stays_so():
    assert not stf.strip(stf.sparsify(functional())).compiled


def test_frozen_layers_stay_frozen():
    model = functional()
    model.get_layer("inner").get_layer("in1").trainable = False
    model.get_layer("out").trainable = False
    with pytest.warns(UserWarning, match="Frozen kernels are not pruned"):
        pruned = stf.pruning.prune_one_shot(model, 0.5)
    plain = stf.strip(pruned)
    assert plain.get_layer("inner").get_layer("in1").trainable is False
    assert plain.get_layer("out").trainable is False
    assert plain.get_layer("shared").trainable is True
    assert len(plain.trainable_weights) == len(model.trainable_weights)


def test_shared_layer_stays_shared():
    plain = stf.strip(stf.pruning.prune_one_shot(functional(), 0.5))
    assert len(plain.get_layer("shared")._inbound_nodes) == 2
    assert len(plain.weights) == len(functional().weights)


def test_users_own_layer():
    model = keras.Sequential([keras.Input((4,)), Double(3, name="double")])
    pruned = stf.pruning.prune_one_shot(model, 0.5)
    x = data((4,))
    plain = stf.strip(pruned)
    assert type(plain.layers[0]) is Double
    assert type(plain.layers[0].dense) is layers.Dense
    np.testing.assert_array_equal(values(plain(x)), values(pruned(x)))


def test_plain_model_comes_back_as_a_copy():
    model = sequential()
    plain = stf.strip(model)
    assert plain is not model
    x = data((6, 6, 2))
    np.testing.assert_array_equal(values(plain(x)), values(model(x)))
    net = subclassed()
    assert stf.strip(net) is net


def test_stripped_model_can_be_sparsified_again():
    plain = stf.strip(stf.pruning.prune_one_shot(functional(), 0.5))
    again = stf.pruning.prune_one_shot(plain, 0.75)
    assert stf.summary(again, print_fn=None).sparsity == pytest.approx(0.75, abs=0.02)


def test_saves_and_loads_in_this_process(tmp_path):
    plain = stf.strip(stf.pruning.prune_one_shot(functional(), 0.5))
    plain.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    x = data((4,))
    np.testing.assert_array_equal(values(loaded(x)), values(plain(x)))


LOAD = """
import sys
sys.modules["sparsenet_tf"] = None  # so that importing it fails
import keras, numpy as np
model = keras.models.load_model("model.keras")
model.evaluate(np.load("x.npy"), np.zeros((5, 2)), verbose=0)
y = model(np.load("x.npy"), training=False)
np.save("y.npy", keras.ops.convert_to_numpy(y))
assert not [name for name in sys.modules if name.startswith("sparsenet_tf.")]
"""


def test_loads_where_this_package_is_not(tmp_path):
    model = sequential()
    model.compile("adam", "mse")
    plain = stf.strip(stf.pruning.prune_one_shot(model, 0.6))
    plain.save(tmp_path / "model.keras")
    x = data((6, 6, 2))
    np.save(tmp_path / "x.npy", x)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), values(plain(x)), atol=1e-6)


@pytest.mark.parametrize("other", [None, "model", layers.Dense(3)])
def test_something_else_than_a_model(other):
    with pytest.raises(TypeError, match="`model` must be a keras.Model"):
        stf.strip(other)
