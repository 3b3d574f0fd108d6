"""`SparseConv2D`: as the masked `Conv2D`, with nothing but the nonzeros."""

import dataclasses

import keras
import numpy as np
import pytest
from backends import assert_allclose, assert_array_equal, values
from keras.src.testing import TestCase

import sparsenet_tf as stf
from sparsenet_tf.experiments.models import lenet_5
from sparsenet_tf.kernels import sparse
from sparsenet_tf.layers import Masked, SparseConv2D, SparseDense

L = keras.layers
MASK = np.random.default_rng(0).random((3, 2, 4, 6)) < 0.3
WAYS = ["auto", "dense"] + ["native"] * sparse.native_can_run()
OPTIONS = [
    {},
    {"padding": "same", "activation": "relu"},
    {"strides": 2, "padding": "same"},
    {"dilation_rate": (2, 1)},
    {"use_bias": False, "strides": (1, 2)},
]


def conv(mask=MASK, **options):
    layer = L.Conv2D(
        mask.shape[-1], mask.shape[:2], bias_initializer="normal", **options
    )
    groups = options.get("groups", 1)
    layer.build((None, 8, 7, mask.shape[2] * groups))
    return layer


def normal(*shape):
    return np.random.default_rng(2).normal(size=shape).astype("float32")


def fit(layer, x, y):
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.optimizer.build(model.trainable_variables)  # or steps are traced twice
    model.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0)
    return model


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")  # by the battery
@pytest.mark.parametrize(
    ("shape", "weights", "losses", "options"),
    [
        ((6, 6, 6), 1, 0, {"activation": "relu", "use_bias": False}),
        ((3, 3, 6), 2, 2, {"strides": 2, "kernel_regularizer": "l2"}),
        ((4, 5, 6), 2, 1, {"dilation_rate": (1, 2), "implementation": "dense"}),
        ((6, 6, 6), 2, 0, {"kernel_constraint": "non_neg", "scale_to_fan_in": False}),
    ],
)
def test_keras_layer_battery(shape, weights, losses, options):
    if losses == 2:
        options = {**options, "bias_regularizer": "l1"}
    if losses == 1:
        options = {**options, "activity_regularizer": "l2"}
    padding = "valid" if options.get("dilation_rate") else "same"
    TestCase().run_layer_test(
        SparseConv2D,
        init_kwargs={
            "pattern": MASK,
            "kernel_size": (3, 2),
            "padding": padding,
            **options,
        },
        input_shape=(2, 6, 6, 4) if padding == "same" else (2, 6, 7, 4),
        expected_output_shape=(2, *shape),
        expected_num_trainable_weights=weights,
        expected_num_non_trainable_weights=0,
        expected_num_seed_generators=0,
        expected_num_losses=losses,
        supports_masking=False,
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.often("{}-*", "*-native")
def test_trains_as_the_masked_convolution(options, way):
    source = conv(**options)
    layer = SparseConv2D.from_dense(source, MASK, implementation=way)
    masked = Masked(conv(**options))
    masked.layer.set_weights(source.get_weights())
    masked.set_masks(MASK)
    x = normal(12, 8, 7, 4)
    assert_allclose(layer(x), masked(x), rtol=1e-4, atol=1e-5)
    y = normal(*layer(x).shape)
    fit(layer, x, y)
    fit(masked, x, y)
    assert_allclose(layer.dense_kernel(), masked.layer.kernel, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_groups(way):
    source = conv(groups=2)
    layer = SparseConv2D.from_dense(source, MASK, implementation=way)
    x = normal(3, 8, 7, 8)
    halves = []
    for i, filters in enumerate((slice(0, 3), slice(3, 6))):
        kernel = (values(source.kernel) * MASK)[..., filters]
        halves.append(
            values(keras.ops.conv(x[..., 4 * i : 4 * i + 4], kernel))
            + values(source.bias)[filters]
        )
    assert_allclose(layer(x), np.concatenate(halves, -1), atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_channels_first(way):
    last = SparseConv2D.from_dense(conv(), MASK, implementation=way)
    first = SparseConv2D(MASK, (3, 2), data_format="channels_first", implementation=way)
    # Keras adds biases to the wrong axis of images as wide as there are filters.
    x = normal(3, 8, 9, 4)
    wanted = np.transpose(values(last(x)), (0, 3, 1, 2))
    first.build((None, 4, 8, 9))
    first.set_weights(last.get_weights())
    found = first(np.transpose(x, (0, 3, 1, 2)))
    assert_allclose(found, wanted, atol=1e-6)
    assert first.compute_output_shape((None, 4, 8, 9)) == (None, 6, 6, 8)


def test_holds_only_nonzeros_and_so_does_the_optimizer():
    layer = SparseConv2D(MASK, (3, 2), use_bias=False)
    x = normal(8, 8, 7, 4)
    model = fit(layer, x, normal(8, 6, 6, 6))
    nonzeros = int(MASK.sum())
    assert [v.shape for v in layer.weights] == [(nonzeros,)]
    slots = [v for v in model.optimizer.variables if len(v.shape)]
    assert [v.shape for v in slots] == [(nonzeros,)] * 2


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_dtypes(dtype):
    source = conv(dtype=dtype)
    layer = SparseConv2D.from_dense(source, MASK)
    masked, x = Masked(source, MASK), normal(5, 8, 7, 4)
    for outputs in (layer(x), masked(x)):
        found = keras.backend.standardize_dtype(outputs.dtype)
        assert found == keras.DTypePolicy(dtype).compute_dtype
    assert_allclose(
        values(layer(x)).astype("float32"),
        values(masked(x)).astype("float32"),
        atol=0.1,
    )
    fit(layer, x, normal(5, 6, 6, 6))


def test_round_trip():
    source = conv(
        activation="relu",
        kernel_regularizer="l2",
        kernel_initializer=keras.initializers.HeNormal(seed=3),
        name="second",
        trainable=False,
        strides=2,
        groups=2,
    )
    layer = SparseConv2D.from_dense(source, MASK)
    dense = layer.to_dense()
    again = SparseConv2D.from_dense(Masked(dense, MASK))
    assert_array_equal(dense.kernel, values(source.kernel) * MASK)
    assert_array_equal(layer.dense_mask(), MASK)
    assert dense.get_config() == source.get_config()
    assert again.get_config() == layer.get_config()
    for old, new in zip(layer.get_weights(), again.get_weights(), strict=True):
        assert_array_equal(new, old)


@pytest.mark.parametrize("way", WAYS)
def test_saves_with_its_pattern(tmp_path, way):
    layer = SparseConv2D(MASK, (3, 2), implementation=way, name="sparse")
    x = normal(5, 8, 7, 4)
    model = fit(layer, x, normal(5, 6, 6, 6))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.layers[0].pattern == layer.pattern
    assert_array_equal(loaded(x), model(x))
    other = keras.Sequential(
        [keras.Input((8, 7, 4)), SparseConv2D(~MASK, (3, 2), name="sparse")]
    )
    model.save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ValueError, match="'sparse' must be of its own pattern"):
        other.load_weights(tmp_path / "m.weights.h5")


def test_initial_values_are_for_the_connections_that_are_there():
    mask = stf.topology.random_mask((3, 3, 64, 64), 0.9, seed=0)
    settings = {"kernel_initializer": keras.initializers.HeNormal(seed=0)}
    for scaled, fan_in in ((True, 57.6), (False, 576)):
        layer = SparseConv2D(mask, 3, scale_to_fan_in=scaled, **settings)
        layer.build((None, 8, 8, 64))
        assert_allclose(np.std(layer.kernel), (2 / fan_in) ** 0.5, rtol=0.05)


def test_a_pruned_convolutional_network_goes_on_as_it_was():
    model = stf.pruning.prune_one_shot(lenet_5(seed=0), 0.9)
    new = stf.to_sparse(model, layers="all")
    kinds = [type(layer) for layer in new.layers if layer.weights]
    assert kinds == [SparseConv2D] * 2 + [SparseDense] * 2
    x = normal(3, 28, 28, 1)
    assert_allclose(new(x), model(x), atol=1e-5)
    back = stf.to_dense(new)
    assert_array_equal(back(x), model(x))
    masks = stf.get_masks(model)
    for path, mask in stf.get_masks(back).items():
        assert_array_equal(mask, masks[path])
    plain = stf.strip(new)
    assert type(plain.layers[0]) is L.Conv2D
    assert_allclose(plain(x), model(x), atol=1e-5)
    for old, now in zip(
        stf.summary(model).kernels, stf.summary(new).kernels, strict=True
    ):
        sizes = {"bytes": now.bytes, "compressed_bytes": now.compressed_bytes}
        assert dataclasses.replace(old, **sizes) == now


@pytest.mark.parametrize(
    ("channels", "match"),
    [(5, "'one' must have 3 . 2 . 5 inputs .* 24 inputs"), (None, "must be known")],
)
def test_channels_that_do_not_fit(channels, match):
    with pytest.raises(ValueError, match=match):
        SparseConv2D(MASK, (3, 2), name="one").build((None, 8, 8, channels))


def test_bad_arguments():
    with pytest.raises(ValueError, match="`pattern` must have two axes"):
        SparseConv2D(np.ones((3, 2, 4)), (3, 2))
    with pytest.raises(ValueError, match="`implementation` must be one of"):
        SparseConv2D(MASK, (3, 2), implementation="csr")
    with pytest.raises(ValueError, match="`mask` must be given"):
        SparseConv2D.from_dense(conv())
    with pytest.raises(TypeError, match="`layer` must be a keras Conv2D"):
        SparseConv2D.from_dense(L.Dense(3), MASK)
    with pytest.raises(ValueError, match="6 outputs .*'conv'.* 3 outputs"):
        SparseConv2D.from_dense(conv(name="conv"), MASK[..., :3])
    with pytest.raises(TypeError, match="no arguments .'lora_rank'"):
        SparseConv2D(MASK, (3, 2), lora_rank=2)
