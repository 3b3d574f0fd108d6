"""Every Keras layer with state, in every kind of model, through every copy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

import sparsenet_tf as stf

L = keras.layers

RNG = np.random.default_rng(0)
NUMBERS = RNG.normal(50, 9, (40, 4)).astype("float32")
WORDS = np.array([["red"], ["green"], ["blue"], ["red"], ["none"]])
TEXTS = np.array(["a b", "b c c", "d a", "b b"])


def adapted(layer, data):
    layer.adapt(data)
    return layer


def trained(layer, data):
    layer(data, training=True)
    return layer


# name: (a layer with state, inputs for it as an array of its dtype)
LAYERS = {
    "Normalization": (lambda: adapted(L.Normalization(), NUMBERS), NUMBERS),
    "Normalization, inverted": (
        lambda: adapted(L.Normalization(invert=True), NUMBERS),
        NUMBERS,
    ),
    "Discretization": (
        lambda: adapted(L.Discretization(num_bins=3, output_mode="one_hot"), NUMBERS),
        NUMBERS[:, :1],
    ),
    "IntegerLookup": (
        lambda: adapted(
            L.IntegerLookup(output_mode="multi_hot"), np.array([[3], [5], [5]])
        ),
        np.array([[5], [3], [9]], "int64"),
    ),
    "StringLookup": (
        lambda: adapted(L.StringLookup(output_mode="count"), WORDS),
        WORDS,
    ),
    "StringLookup, tf_idf": (
        lambda: adapted(L.StringLookup(output_mode="tf_idf"), WORDS),
        WORDS,
    ),
    "TextVectorization": (
        lambda: adapted(
            L.TextVectorization(output_mode="multi_hot", pad_to_max_tokens=False), TEXTS
        ),
        TEXTS,
    ),
    "TextVectorization, tf_idf": (
        lambda: adapted(L.TextVectorization(output_mode="tf_idf"), TEXTS),
        TEXTS,
    ),
    "Hashing": (lambda: L.Hashing(5, output_mode="multi_hot", salt=3), WORDS),
    "BatchNormalization": (
        lambda: trained(L.BatchNormalization(), NUMBERS),
        NUMBERS,
    ),
    "SpectralNormalization": (
        lambda: trained(L.SpectralNormalization(L.Dense(3)), NUMBERS),
        NUMBERS,
    ),
    "stateful GRU": (
        lambda: trained(L.GRU(3, stateful=True), NUMBERS.reshape(40, 2, 2)),
        NUMBERS.reshape(40, 2, 2),
    ),
    "Dropout": (lambda: trained(L.Dropout(0.5, seed=3), NUMBERS), NUMBERS),
    "Dense in int8": (lambda: L.Dense(3, dtype="int8_from_float32"), NUMBERS),
}
ADAPTED = [name for name, (make, _) in LAYERS.items() if hasattr(make(), "adapt")]


class Net(keras.Model):
    """A subclassed model, which holds the layer and its own head."""

    def __init__(self, layer, head, **kwargs):
        super().__init__(**kwargs)
        self.first, self.head = layer, head

    def call(self, inputs, training=None):
        if self.first._call_has_training_arg:
            return self.head(self.first(inputs, training=training))
        return self.head(self.first(inputs))

    def get_config(self):
        save = keras.saving.serialize_keras_object
        return {"layer": save(self.first), "head": save(self.head), "name": self.name}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for name in ("layer", "head"):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)

    def build(self, input_shape):
        if not self.first.built:
            self.first.build(input_shape)
        if not self.head.built:
            self.head.build(self.first.compute_output_shape(input_shape))


def sequential(layer, x):
    return keras.Sequential([_input(x, layer), layer, L.Dense(2, name="head")])


def functional(layer, x):
    inputs = _input(x, layer)
    return keras.Model(inputs, L.Dense(2, name="head")(layer(inputs)))


def nested(layer, x):
    inputs, inner = _input(x, layer), _input(x, layer)
    body = keras.Model(inner, layer(inner), name="body")
    return keras.Model(inputs, L.Dense(2, name="head")(body(inputs)))


def subclassed(layer, x):
    model = Net(layer, L.Dense(2, name="head"))
    model(x)
    return model


def _input(x, layer):
    kind = keras.backend.standardize_dtype(x.dtype)
    batch_size = len(x) if getattr(layer, "stateful", False) else None
    return keras.Input(x.shape[1:], dtype=kind, batch_size=batch_size)


KINDS = {kind.__name__: kind for kind in (sequential, functional, nested, subclassed)}


def there_and_back(model):
    masked = stf.pruning.prune_one_shot(model, 0.0)
    return stf.to_dense(stf.to_sparse(masked, layers="all"))


COPIES = {
    "sparsify": stf.sparsify,
    "prune_one_shot": lambda model: stf.pruning.prune_one_shot(model, 0.0),
    "strip": lambda model: stf.strip(stf.sparsify(model)),
    "to_sparse and back": there_and_back,
}
FORMATS = {"keras": ".keras", "saved_model": ""}

# A row and a column by default, the whole table by `make slow`.
TABLE = [
    pytest.param(
        name,
        kind,
        copy,
        marks=[]
        if (kind, copy) == ("functional", "sparsify")
        or (name == "Normalization" and kind == "nested")
        or (name == "Normalization" and copy == "strip")
        else pytest.mark.slow,
        id=f"{name}-{kind}-{copy}",
    )
    for name in LAYERS
    for kind in KINDS
    for copy in COPIES
]


def made(name, kind):
    make, x = LAYERS[name]
    x = tf.constant(x) if x.dtype.kind == "U" else x
    return KINDS[kind](make(), x), x


def outputs(model, x):
    for _, layer in stf.layers.tree.walk(model):
        if getattr(layer, "stateful", False):
            layer.reset_states()
    return np.asarray(model(x))


def state(model):
    """All variables of the model but masks, seeds of random generators included."""
    masks = {
        id(masked.mask)
        for _, layer in stf.layers.tree.walk(model)
        if stf.layers.tree.is_masked(layer)
        for masked in layer.kernels.values()
    }
    return [np.asarray(v.value) for v in model.variables if id(v) not in masks]


@pytest.mark.parametrize(("name", "kind", "copy"), TABLE)
def test_copies_have_the_state_and_the_outputs(name, kind, copy):
    model, x = made(name, kind)
    before, expected = state(model), outputs(model, x)
    new = COPIES[copy](model)
    if "stateful" not in name:
        for value, kept in zip(state(new), before, strict=True):
            assert_array_equal(value, kept)
    assert_allclose(outputs(new, x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(
            name,
            kind,
            marks=[] if name == "Normalization" else pytest.mark.slow,
            id=f"{name}-{kind}",
        )
        for name in LAYERS
        for kind in ("sequential", "nested")
    ],
)
def test_exports_have_the_outputs(name, kind, format, tmp_path):
    if name in ("Dense in int8", "stateful GRU") and format == "saved_model":
        pytest.skip("Keras has no such SavedModel: a plain model fails alike")
    model, x = made(name, kind)
    expected = outputs(model, x)
    path = tmp_path / f"model{FORMATS[format]}"
    stf.export(stf.sparsify(model), path, print_fn=None)
    if format == "keras":
        got = outputs(keras.models.load_model(path), x)
    else:
        loaded = tf.saved_model.load(str(path))
        got = np.asarray(loaded.serve(x))
    assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(
            name,
            kind,
            marks=[] if kind == "functional" else pytest.mark.slow,
            id=f"{name}-{kind}",
        )
        for name in ADAPTED
        for kind in KINDS
    ],
)
def test_rebuild_keeps_what_was_adapted(name, kind):
    model, x = made(name, kind)
    old = next(p for _, p in stf.layers.tree.walk(model) if hasattr(p, "adapt"))
    new = stf.rebuild(model, {}, seed=1)
    assert not np.allclose(outputs(new, x), outputs(model, x))  # another head
    kept = next(p for _, p in stf.layers.tree.walk(new) if hasattr(p, "adapt"))
    assert kept is not old
    assert_allclose(np.asarray(kept(x)), np.asarray(old(x)), rtol=1e-6)


def test_rebuild_draws_moving_statistics_anew_and_keeps_frozen_weights():
    frozen = L.Dense(3, name="frozen", trainable=False)
    model = keras.Sequential([keras.Input((4,)), frozen, L.BatchNormalization()])
    model(NUMBERS, training=True)
    new = stf.rebuild(model, {}, seed=1)
    assert_array_equal(new.layers[0].kernel, frozen.kernel)
    assert not np.any(new.layers[1].moving_mean)
    assert np.all(np.asarray(new.layers[1].moving_variance) == 1)


def test_an_unbuilt_model_keeps_what_was_adapted():
    model = keras.Sequential([adapted(L.Normalization(), NUMBERS), L.Dense(2)])
    sparse = stf.sparsify(model)
    assert_array_equal(sparse.layers[0].mean, model.layers[0].mean)
    assert sparse(NUMBERS).shape == (40, 2)


# Keras says so of the plain model too.
@pytest.mark.filterwarnings("ignore:.*The structure of `inputs`:UserWarning")
def test_feature_space():
    space = keras.utils.FeatureSpace(
        {
            "size": keras.utils.FeatureSpace.float_normalized(),
            "color": keras.utils.FeatureSpace.string_categorical(),
        },
        output_mode="concat",
    )
    rows = {"size": np.float32([1, 2, 9]), "color": ["red", "blue", "red"]}
    space.adapt(tf.data.Dataset.from_tensor_slices(rows))
    encoded = space.get_encoded_features()
    model = keras.Model(space.get_inputs(), L.Dense(2)(encoded))
    x = {"size": tf.constant([[3.0]]), "color": tf.constant([["blue"]])}
    sparse = stf.sparsify(model)
    assert_allclose(sparse(x), model(x), rtol=1e-6)


def test_inputs_stay_what_they_are():
    inputs = {
        "a": keras.Input((4,), sparse=True, name="a"),
        "b": keras.Input((4,), optional=True, batch_size=2, dtype="float16", name="b"),
    }
    outputs = [L.Dense(3)(inputs["a"]), L.Identity()(inputs["b"])]
    model = keras.Model(inputs, outputs)

    def flags(model):
        layers = [tensor._keras_history.operation for tensor in model.inputs]
        return [layer.get_config() for layer in layers]

    assert flags(stf.sparsify(model)) == flags(model)
    first = keras.Sequential([keras.Input((4,), sparse=True, name="s"), L.Dense(2)])
    assert flags(stf.sparsify(first)) == flags(first)
