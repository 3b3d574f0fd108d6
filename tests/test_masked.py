"""`Masked` on every kind of layer: what it masks, what it leaves, how it saves."""

import gc
import weakref

import keras
import numpy as np
import pytest
from backends import COMPILES_FAST, assert_allclose, assert_array_equal, values

import sparsenet_tf as stf
from sparsenet_tf.layers import Masked

L = keras.layers


@keras.saving.register_keras_serializable(package="test_masked")
class Bilinear(L.Layer):
    """A user's own layer, with a weight of its own name and a layer inside."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.inner = L.Dense(units, name="inner")

    def build(self, input_shape):
        self.mixing = self.add_weight(shape=(input_shape[-1], self.units), name="mix")
        self.offset = self.add_weight(shape=(self.units,), name="offset")
        self.inner.build(input_shape)

    def call(self, inputs, scale=1.0):
        mixed = keras.ops.matmul(inputs, self.mixing) + self.offset
        return scale * mixed * self.inner(inputs)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(package="test_masked")
class BuiltByCall(L.Layer):
    """A user's own layer without `build`: it builds what is inside by calling it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(3, name="first")
        self.attention = L.MultiHeadAttention(2, 2, name="attention")

    def call(self, inputs):
        hidden = self.dense(inputs)
        return self.attention(hidden, hidden)


@keras.saving.register_keras_serializable(package="test_masked")
class Chooses(L.Layer):
    """Says itself which of its weights are kernels."""

    def build(self, input_shape):
        self.wanted = self.add_weight(shape=(input_shape[-1], 2), name="wanted")
        self.table = self.add_weight(shape=(5, 2), name="table")

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.wanted) + keras.ops.sum(self.table)

    def get_prunable_weights(self):
        return [self.wanted]


SEQUENCE, IMAGE, VOLUME = (6, 4), (8, 8, 3), (4, 4, 4, 2)
LAYERS = {
    "dense": (lambda: L.Dense(5, activation="relu"), SEQUENCE, 1),
    "dense_no_bias": (lambda: L.Dense(5, use_bias=False), SEQUENCE, 1),
    "conv1d": (lambda: L.Conv1D(4, 3), SEQUENCE, 1),
    "conv2d": (lambda: L.Conv2D(4, 3, strides=2, padding="same"), IMAGE, 1),
    "conv2d_groups": (lambda: L.Conv2D(6, 3, groups=3), IMAGE, 1),
    "conv3d": (lambda: L.Conv3D(3, 2), VOLUME, 1),
    "conv1d_transpose": (lambda: L.Conv1DTranspose(4, 3), SEQUENCE, 1),
    "conv2d_transpose": (lambda: L.Conv2DTranspose(4, 3), IMAGE, 1),
    "conv3d_transpose": (lambda: L.Conv3DTranspose(3, 2), VOLUME, 1),
    "depthwise1d": (lambda: L.DepthwiseConv1D(3), SEQUENCE, 1),
    "depthwise2d": (lambda: L.DepthwiseConv2D(3, depth_multiplier=2), IMAGE, 1),
    "separable1d": (lambda: L.SeparableConv1D(4, 3), SEQUENCE, 2),
    "separable2d": (lambda: L.SeparableConv2D(4, 3), IMAGE, 2),
    "einsum": (
        lambda: L.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d"),
        SEQUENCE,
        1,
    ),
    "lstm": (lambda: L.LSTM(4, return_sequences=True), SEQUENCE, 2),
    "gru": (lambda: L.GRU(4), SEQUENCE, 2),
    "simple_rnn": (lambda: L.SimpleRNN(4), SEQUENCE, 2),
    "bidirectional": (lambda: L.Bidirectional(L.LSTM(3)), SEQUENCE, 4),
    "conv_lstm": (lambda: L.ConvLSTM1D(2, 3), (3, 6, 4), 2),
    "time_distributed": (lambda: L.TimeDistributed(L.Dense(3)), SEQUENCE, 1),
    "own": (Bilinear, SEQUENCE, 2),
    "built_by_call": (BuiltByCall, SEQUENCE, 5),
    "chooses": (Chooses, SEQUENCE, 1),
    "nested_model": (
        lambda: L.TimeDistributed(
            keras.Sequential([keras.Input((4,)), L.Dense(3), L.Dense(2)])
        ),
        SEQUENCE,
        2,
    ),
}


def _halved(layer):
    return {
        name: np.random.default_rng(0).random(mask.shape) < 0.5
        for name, mask in layer.masks.items()
    }


def _fit(model, x, y, **compile_args):
    model.compile(keras.optimizers.Adam(0.01), "mse", **compile_args)
    model.optimizer.build(model.trainable_variables)  # or steps are traced twice
    model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)


def _example(model, shape, rng=None):
    rng = rng or np.random.default_rng(1)
    x = rng.normal(size=(12, *shape)).astype("float32")
    return x, rng.normal(size=model(x).shape).astype("float32")


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.often(
    "dense",
    "conv2d_groups",
    "conv1d_transpose",
    "separable2d",
    "gru",
    "bidirectional",
    "own",
    "built_by_call",
    "nested_model",
)
def test_masks_each_kernel_and_trains_as_zero(name):
    make, shape, count = LAYERS[name]
    wrapper = Masked(make())
    model = keras.Sequential([keras.Input(shape), wrapper])
    assert len(wrapper.masks) == count
    assert all(mask.all() and mask.dtype == bool for mask in wrapper.masks.values())
    masks = _halved(wrapper)
    wrapper.set_masks(masks)
    before = [kernel.numpy() for kernel in stf.layers.tree.kernels(model).values()]
    _fit(model, *_example(model, shape))
    kernels = stf.layers.tree.kernels(model)
    assert len(kernels) == count
    for mask, old, kernel in zip(masks.values(), before, kernels.values(), strict=True):
        assert np.count_nonzero(kernel.numpy()[~mask]) == 0
        assert (kernel.numpy() != old)[mask].any()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.often(
    "dense", "conv2d", "depthwise2d", "lstm", "own", "nested_model", "einsum"
)
def test_ones_change_nothing_to_the_last_bit(name):
    make, shape, _ = LAYERS[name]
    first, plain = (keras.Sequential([keras.Input(shape), make()]) for _ in range(2))
    masked = keras.Sequential([keras.Input(shape), Masked(make())])
    stf.layers.copying.copy_weights(first, plain)
    stf.layers.copying.copy_weights(first, masked)
    x, y = _example(plain, shape)
    assert_array_equal(plain(x), masked(x))
    # The first model that a process trains can differ from its twins in a last bit.
    _fit(first, x, y)
    _fit(plain, x, y)
    _fit(masked, x, y)
    new = stf.layers.copying.plain_weights(masked)
    for expected, got in zip(plain.weights, new, strict=True):
        assert_array_equal(expected.numpy(), got.numpy())
    assert_array_equal(plain(x), masked(x))


@pytest.mark.parametrize("name", LAYERS)
def test_saves_and_loads(name, tmp_path):
    make, shape, _ = LAYERS[name]
    wrapper = Masked(make())
    model = keras.Sequential([keras.Input(shape), wrapper])
    wrapper.set_masks(_halved(wrapper))
    x, _ = _example(model, shape)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_array_equal(loaded(x), model(x))
    # A clone of a TimeDistributed or Bidirectional names its inner layers anew.
    for old, new in zip(
        wrapper.masks.values(), loaded.layers[0].masks.values(), strict=True
    ):
        assert_array_equal(new, old)
    for kernel in loaded.layers[0].kernels.values():
        kernel.mask.assign(np.ones(kernel.mask.shape))
    model.save_weights(tmp_path / "w.weights.h5")
    loaded.load_weights(tmp_path / "w.weights.h5")
    for old, new in zip(
        wrapper.masks.values(), loaded.layers[0].masks.values(), strict=True
    ):
        assert_array_equal(new, old)


def _attention_inputs():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(3, 5, 4)).astype("float32") for _ in range(2)]


def test_multi_head_attention():
    query, value = _attention_inputs()
    plain = L.MultiHeadAttention(2, 3, name="attention")
    expected, scores = plain(query, value, return_attention_scores=True)
    masked = Masked(plain)
    got = masked(query=query, value=value, return_attention_scores=True)
    assert_array_equal(got[0], expected)
    assert_array_equal(got[1], scores)
    assert list(masked.masks) == [
        "query/kernel",
        "key/kernel",
        "value/kernel",
        "attention_output/kernel",
    ]
    masked.set_masks({"query/kernel": np.zeros((4, 2, 3), bool)})
    uniform = masked(query, value, return_attention_scores=True)[1]
    assert_allclose(uniform, np.full((3, 2, 5, 5), 0.2), rtol=1e-6)
    assert np.ndim(masked(query, value, use_causal_mask=True)) == 3


def test_embedding_with_timestep_masks():
    tokens = np.array([[1, 2, 0, 0], [3, 1, 2, 0]])
    targets = np.ones((2, 3), "float32")

    def build(wrap):
        return keras.Sequential(
            [
                keras.Input((4,), dtype="int32"),
                wrap(L.Embedding(6, 4, mask_zero=True)),
                wrap(L.LSTM(3)),
            ]
        )

    plain, masked = build(lambda layer: layer), build(Masked)
    stf.layers.copying.copy_weights(plain, masked)
    assert_array_equal(plain(tokens), masked(tokens))
    for model in (plain, masked):
        model.compile(keras.optimizers.Adam(0.1), "mse")
        model.fit(tokens, targets, epochs=5, verbose=0, shuffle=False)
    assert_array_equal(plain(tokens), masked(tokens))
    keep = np.random.default_rng(0).random((6, 4)) < 0.5
    masked.layers[0].set_masks(keep)
    masked.fit(tokens, targets, epochs=5, verbose=0)
    assert np.count_nonzero(masked.layers[0].embeddings.numpy()[~keep]) == 0


def test_layer_used_twice():
    shared = L.Dense(4, name="shared")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, shared(shared(inputs)))
    sparse = stf.pruning.prune_one_shot(model, 0.5)
    assert len(stf.get_masks(sparse)) == 1
    _fit(sparse, *_example(sparse, (4,)))
    assert np.count_nonzero(values(sparse.get_layer("shared").kernel)) == 8


def test_wrapper_is_the_layer_to_its_users():
    wrapper = Masked(L.Dense(5, name="logits"))
    assert (wrapper.name, wrapper.units) == ("logits", 5)
    with pytest.raises(AttributeError):
        _ = wrapper.no_such_thing
    wrapper.build((None, 3))
    assert wrapper.kernel is wrapper.layer.kernel
    wrapper.masks["kernel"][:] = False  # a copy
    assert wrapper.masks["kernel"].all()


def test_forwards_training_and_other_arguments():
    x = np.ones((2, 4), "float32")
    wrapper = Masked(Bilinear(3))
    assert_allclose(wrapper(x, scale=2.0), 2 * wrapper(x), rtol=1e-6)
    lstm = Masked(L.LSTM(3, dropout=0.5))
    sequence = np.ones((2, 5, 4), "float32")
    training, inference = (values(lstm(sequence, training=t)) for t in (True, False))
    assert (training != inference).any()


def test_norm_and_bias_are_no_kernels():
    for layer, shape in [
        (L.BatchNormalization(), (None, 4)),
        (L.LayerNormalization(axis=(1, 2)), (None, 4, 4)),
        (L.PReLU(), (None, 4, 4)),
        (L.EinsumDense("ab,bcd->acd", (3, 2), bias_axes="cd"), (None, 4)),
    ]:
        layer.build(shape)
        kernels = stf.layers.tree.kernels(layer)
        assert set(kernels) <= {"kernel"}, kernels


def test_given_mask_holds_from_the_start():
    mask = np.eye(3, 2)
    for wrapper in (Masked(L.Dense(2), mask), Masked(L.Dense(2), {"kernel": mask})):
        wrapper.build((None, 3))
        assert_array_equal(wrapper.kernel.numpy() != 0, mask == 1)
    built = L.Dense(2)
    built.build((None, 3))
    assert_array_equal(Masked(built, mask).kernel.numpy() != 0, mask == 1)


def test_given_mask_when_fit_builds_the_model():
    mask = np.eye(4, 2)

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.out = Masked(L.Dense(2), mask)

        def call(self, x):
            return self.out(x)

    model = Subclassed()
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    model.fit(rng.random((8, 4)), rng.random((8, 2)), verbose=0)
    assert_array_equal(model.out.kernel.numpy() != 0, mask == 1)


def test_config_round_trip_keeps_masks():
    wrapper = Masked(L.Dense(3), exclude="nothing")
    model = keras.Sequential([keras.Input((4,)), wrapper])
    mask = np.arange(12).reshape(4, 3) % 2 == 1
    wrapper.set_masks(mask)
    clone = keras.models.clone_model(model).layers[0]
    assert_array_equal(clone.masks["kernel"], mask)
    assert clone.exclude == ("nothing",)
    assert_array_equal(clone.kernel.numpy() != 0, mask)


BAD_MASKS = {
    "shape": (np.ones((3, 4)), r"shape \(4, 3\).*shape \(3, 4\)"),
    "half": (np.full((4, 3), 0.5), "only 0 and 1.*first 0.5"),
    "two": (np.full((4, 3), 2), "only 0 and 1.*first 2"),
    "nan": (np.full((4, 3), np.nan), "only 0 and 1.*first nan"),
    "text": (np.full((4, 3), "a"), "booleans, or 0 and 1.*dtype <U1"),
    "complex": (np.ones((4, 3), complex), "booleans, or 0 and 1.*complex"),
    "object": (np.full((4, 3), None), "booleans, or 0 and 1.*object"),
    "name": ({"kernle": np.ones((4, 3))}, r"\['kernel'\].*the name 'kernle'"),
}


@pytest.mark.parametrize("case", BAD_MASKS)
def test_bad_masks(case):
    mask, message = BAD_MASKS[case]
    built = Masked(L.Dense(3))
    built.build((None, 4))
    before = built.get_weights()
    with pytest.raises(ValueError, match=f"(?s)`mask`.*{message}"):
        built.set_masks(mask)
    for old, new in zip(before, built.get_weights(), strict=True):
        assert_array_equal(old, new)
    with pytest.raises(ValueError, match=f"(?s)`mask`.*{message}"):
        Masked(L.Dense(3), mask).build((None, 4))


def test_one_array_for_several_kernels():
    wrapper = Masked(L.LSTM(2))
    wrapper.build((None, 3, 4))
    with pytest.raises(ValueError, match="lstm_cell/recurrent_kernel.*no name"):
        wrapper.set_masks(np.ones((4, 8)))


def test_bad_layers():
    with pytest.raises(TypeError, match="`layer` must be a Keras layer.*'dense'"):
        Masked("dense")
    with pytest.raises(ValueError, match="`layer` must not be masked already"):
        Masked(Masked(L.Dense(3)))
    with pytest.raises(ValueError, match="must be built before `set_masks`"):
        Masked(L.Dense(3)).set_masks(np.ones((4, 3)))


def test_damaged_mask_in_config():
    wrapper = Masked(L.Dense(3), np.zeros((4, 3)))
    wrapper.build((None, 4))
    config = wrapper.get_config()
    config["mask"][0]["bits"] = config["mask"][0]["bits"][:-8]
    with pytest.raises(ValueError, match="`mask` in the config"):
        Masked.from_config(config)


@pytest.mark.parametrize("jit_compile", sorted({False, COMPILES_FAST}))
def test_training_leaves_nothing_behind(jit_compile):
    model = stf.sparsify(keras.Sequential([keras.Input((4,)), L.Dense(3)]))
    # Not a loss in which TensorFlow itself has a custom gradient, which it keeps.
    model.compile(keras.optimizers.SGD(0.1, 0.9), "mse", jit_compile=jit_compile)
    x, y = np.ones((8, 4), "float32"), np.ones((8, 3), "float32")
    callback = stf.pruning.PruningCallback(stf.pruning.ConstantSparsity(0.5, 0))
    model.fit(x, y, verbose=0, callbacks=[callback])
    held = [weakref.ref(v.value) for v in model.variables]
    del model, callback
    keras.backend.clear_session()
    gc.collect()
    assert all(ref() is None for ref in held)
