"""`SparseDense`: as the masked `Dense`, with nothing but the nonzeros."""

import keras
import numpy as np
import pytest
from backends import BACKEND, COMPILES_FAST, assert_allclose, assert_array_equal, values
from keras.src.testing import TestCase

from sparsenet_tf.kernels import sparse
from sparsenet_tf.layers import Masked, SparseDense
from sparsenet_tf.topology import SparsePattern

L = keras.layers
RNG = np.random.default_rng(0)
MASK = RNG.random((16, 9)) < 0.3
WAYS = ["auto", "dense"] + ["csr"] * (BACKEND == "tensorflow")
WAYS += ["native"] * sparse.native_can_run()


def dense_layer(shape=MASK.shape, **options):
    layer = L.Dense(shape[1], bias_initializer="normal", **options)
    layer.build((None, shape[0]))
    return layer


def normal(*shape):
    return np.random.default_rng(2).normal(size=shape).astype("float32")


def fit(layer, x, y, optimizer=None, **options):
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    model.compile(optimizer or keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    model.optimizer.build(model.trainable_variables)  # or steps are traced twice
    model.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0, **options)
    return model


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")  # by the battery
@pytest.mark.parametrize(
    ("shape", "weights", "losses", "options"),
    [
        ((2,), 1, 0, {"activation": "relu", "use_bias": False}),
        ((2, 3), 2, 2, {"kernel_regularizer": "l2", "bias_regularizer": "l1"}),
        ((2, 3, 2), 2, 1, {"activity_regularizer": "l2", "implementation": "dense"}),
        ((3,), 2, 0, {"kernel_constraint": "non_neg", "scale_to_fan_in": False}),
    ],
)
def test_keras_layer_battery(shape, weights, losses, options):
    TestCase().run_layer_test(
        SparseDense,
        init_kwargs={"pattern": SparsePattern.from_mask(MASK), **options},
        input_shape=(*shape, 16),
        expected_output_shape=(*shape, 9),
        expected_num_trainable_weights=weights,
        expected_num_non_trainable_weights=0,
        expected_num_seed_generators=0,
        expected_num_losses=losses,
        supports_masking=True,
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "mask",
    [MASK, np.ones((16, 9), bool), np.arange(16 * 9).reshape(16, 9) == 5],
    ids=["random", "full", "one"],
)
@pytest.mark.often("random-*", "*-native")
def test_trains_as_the_masked_dense_layer(mask, way):
    source = dense_layer(activation="tanh")
    layer = SparseDense.from_dense(source, mask, implementation=way)
    masked = Masked(dense_layer(activation="tanh"))
    masked.layer.set_weights(source.get_weights())
    masked.set_masks(mask)
    x, y = normal(12, 16), normal(12, 9)
    assert_allclose(layer(x), masked(x), rtol=1e-5, atol=1e-6)
    fit(layer, x, y)
    fit(masked, x, y)
    assert_allclose(layer.dense_kernel(), masked.layer.kernel, rtol=1e-4, atol=1e-6)
    assert_allclose(layer.bias, masked.layer.bias, rtol=1e-4, atol=1e-6)


def test_holds_only_nonzeros_and_so_does_the_optimizer():
    layer = SparseDense(MASK, use_bias=False)
    model = fit(layer, normal(8, 16), normal(8, 9), keras.optimizers.Adam())
    nonzeros = int(MASK.sum())
    assert [v.shape for v in layer.weights] == [(nonzeros,)]
    slots = [v for v in model.optimizer.variables if len(v.shape)]
    assert [v.shape for v in slots] == [(nonzeros,)] * 2


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_dtypes(dtype):
    source = dense_layer(dtype=dtype)
    layer = SparseDense.from_dense(source, MASK)
    masked = Masked(source, MASK)
    x = normal(5, 16)
    for outputs in (layer(x), masked(x)):
        found = keras.backend.standardize_dtype(outputs.dtype)
        assert found == keras.DTypePolicy(dtype).compute_dtype
    assert_allclose(
        values(layer(x)).astype("float32"),
        values(masked(x)).astype("float32"),
        atol=0.05,
    )
    fit(layer, x, normal(5, 9))


@pytest.mark.parametrize("use_bias", [True, False])
def test_round_trip(use_bias):
    source = dense_layer(
        activation="relu",
        kernel_regularizer="l2",
        kernel_constraint="unit_norm",
        kernel_initializer=keras.initializers.HeNormal(seed=3),
        activity_regularizer="l1",
        name="logits",
        trainable=False,
        use_bias=use_bias,
    )
    layer = SparseDense.from_dense(source, MASK)
    dense = layer.to_dense()
    again = SparseDense.from_dense(Masked(dense, MASK))
    assert_array_equal(dense.kernel, values(source.kernel) * MASK)
    assert_array_equal(layer.dense_mask(), MASK)
    assert dense.get_config() == source.get_config()
    assert again.get_config() == layer.get_config()
    for old, new in zip(layer.get_weights(), again.get_weights(), strict=True):
        assert_array_equal(new, old)


@pytest.mark.parametrize("way", WAYS)
def test_saves_with_its_pattern(tmp_path, way):
    layer = SparseDense(MASK, "tanh", implementation=way, name="sparse")
    x = normal(5, 16)
    model = fit(layer, x, normal(5, 9))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.layers[0].pattern == layer.pattern
    assert_array_equal(loaded(x), model(x))
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    assert_array_equal(copy(x), model(x))


def test_weights_of_another_pattern_are_refused(tmp_path):
    def build(mask):
        return keras.Sequential([keras.Input((16,)), SparseDense(mask, name="one")])

    model, path = build(MASK), tmp_path / "m.weights.h5"
    model.save_weights(path)
    same = build(MASK)
    same.load_weights(path)
    assert_array_equal(same.layers[0].kernel, model.layers[0].kernel)
    other = build(MASK[::-1])  # as many connections
    with pytest.raises(ValueError, match="'one' must be of its own pattern"):
        other.load_weights(path)


def test_xla_compiles_the_dense_way_alone():
    x, y = normal(8, 16), normal(8, 9)
    # Where Keras chooses, it asks the layers.
    assert SparseDense(MASK).supports_jit == (BACKEND != "tensorflow")
    layer = SparseDense(MASK, implementation="dense")
    assert layer.supports_jit
    model = keras.Sequential([keras.Input((16,)), layer])
    model.compile("sgd", "mse", jit_compile=COMPILES_FAST)
    model.fit(x, y, verbose=0)


def test_initial_variance_follows_the_true_fans():
    pattern = SparsePattern.random(1000, 400, 20, seed=0)
    for scaled, fan in ((True, 20 + 20 * 400 / 1000), (False, 1400)):
        layer = SparseDense(pattern, scale_to_fan_in=scaled)
        layer.build((None, 1000))
        assert np.var(layer.kernel) == pytest.approx(2 / fan, rel=0.1)


def test_a_pattern_without_connections():
    layer = SparseDense(np.zeros((4, 3), bool), bias_initializer="ones")
    assert_array_equal(layer(normal(2, 4)), np.ones((2, 3)))


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: SparseDense(np.ones(3)), ValueError, "`pattern` must have two axes"),
        (
            lambda: SparseDense(MASK, implementation="fast"),
            ValueError,
            "must be one of",
        ),
        (lambda: SparseDense(MASK)(normal(2, 15)), ValueError, "16 inputs.* 15 coming"),
        (
            lambda: SparseDense.from_dense(dense_layer(name="d")),
            ValueError,
            "`mask` must be given for layer 'd'",
        ),
        (
            lambda: SparseDense.from_dense(dense_layer((16, 8), name="d"), MASK),
            ValueError,
            "the 8 outputs of layer 'd'. Received: 9",
        ),
        (
            lambda: SparseDense.from_dense(L.Dense(3, name="d"), MASK),
            ValueError,
            "'d', not built",
        ),
        (
            lambda: SparseDense.from_dense(L.Conv2D(3, 3), MASK),
            TypeError,
            "must be a keras Dense",
        ),
        (lambda: SparseDense(MASK).to_dense(), ValueError, "must be built"),
    ],
)
def test_says_what_is_wrong(make, error, match):
    with pytest.raises(error, match=match):
        make()
