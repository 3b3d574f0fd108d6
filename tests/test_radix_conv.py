"""`RadixConv2D`: as `Conv2D` where both can be, with nothing but the nonzeros."""

import keras
import numpy as np
import pytest
from backends import (
    COMPILES_FAST,
    DOUBLE_PRECISION,
    activity_loss,
    assert_allclose,
    assert_array_equal,
    gradients_of,
    values,
)
from keras.src.testing import TestCase

import sparsenet_tf as stf
from sparsenet_tf.layers import Masked, RadixConv2D
from sparsenet_tf.topology import RadixLayer

L = keras.layers

TILES = RadixLayer(8, 2, 2)
# Topology, input channels and options: of all layers the image is 6 x 7.
CASES = {
    "tiles": (TILES, 8, {"kernel_size": 3, "padding": "same"}),
    "one_tile": (RadixLayer(4, 2, 2, 2, 1), 8, {"kernel_size": 1}),
    "strides": (TILES, 8, {"kernel_size": (2, 3), "strides": (2, 1)}),
    "dilation": (TILES, 8, {"kernel_size": (3, 2), "dilation_rate": (1, 2)}),
    "drop_inputs": (RadixLayer(4, 2, 1, 2, 2, 3), 5, {"kernel_size": 2}),
    "drop_outputs": (
        RadixLayer(4, 2, 1, 1, 2, drop_outputs=3),
        4,
        {"kernel_size": (1, 2), "use_bias": False},
    ),
    "groups": (
        RadixLayer(4, 2, 2, 1, 2, 1, 1),
        6,
        {"kernel_size": (3, 1), "groups": 2, "strides": 2, "padding": "same"},
    ),
    "patches": (
        RadixLayer(12, 3, 2),
        2,
        {"kernel_size": (2, 3), "strides": 2, "padding": "same"},
    ),
    # 16 connections: not as many in each position of the filter.
    "patches_drop_both": (
        RadixLayer(6, 2, 1, 2, 1, drop_inputs=3, drop_outputs=1),
        3,
        {"kernel_size": (1, 3), "dilation_rate": (1, 2)},
    ),
}
of_each = pytest.mark.parametrize("name", CASES)
some = pytest.mark.parametrize("name", ["groups", "patches_drop_both"])


def radix_layer(case, **more):
    topology, channels, options = CASES[case]
    layer = RadixConv2D(topology, **{"bias_initializer": "normal", **options, **more})
    layer.build((None, 6, 7, channels))
    return layer


def dense_layer(case, **more):
    topology, channels, options = CASES[case]
    options = {"bias_initializer": "normal", **options, **more}
    layer = L.Conv2D(options.get("groups", 1) * topology.output_size, **options)
    shape = (6, 7, channels)
    if options.get("data_format") == "channels_first":
        shape = (channels, 6, 7)
    layer.build((None, *shape))
    return layer


def dense_mask(name):
    """The mask of the dense kernel, written out position by position."""
    topology, channels, options = CASES[name]
    size = options["kernel_size"]
    height, width = (size, size) if isinstance(size, int) else size
    if "patches" in name:
        return topology.mask().reshape((height, width, channels, -1))
    mask = np.tile(topology.mask(), (1, options.get("groups", 1)))
    return np.broadcast_to(mask, (height, width, *mask.shape)).copy()


def normal(*shape):
    return np.random.default_rng(2).normal(size=shape).astype("float32")


def image(name, batch=4):
    return normal(batch, 6, 7, CASES[name][1])


def whole_model(name="tiles"):
    topology, channels, options = CASES[name]
    return keras.Sequential(
        [
            keras.Input((6, 7, channels)),
            RadixConv2D(topology, activation="relu", name="radix", **options),
            L.GlobalAveragePooling2D(),
            L.Dense(3, name="out"),
        ]
    )


def fit(model, x, y, **options):
    model.compile(keras.optimizers.Adam(0.01), "mse", **options)
    model.optimizer.build(model.trainable_variables)  # or steps are traced twice
    return model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)


def config_of(layer):
    """The config without what only one of Conv2D and RadixConv2D has."""
    names = ("filters", "topology", "scale_to_fan_in", "quantization_config")
    return {k: v for k, v in layer.get_config().items() if k not in names}


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")  # by the battery
@pytest.mark.parametrize(
    ("name", "shape", "losses", "options"),
    [
        ("tiles", (6, 7, 8), 0, {"activation": "relu", "use_bias": False}),
        (
            "groups",
            (3, 4, 14),
            2,
            {"kernel_regularizer": "l2", "bias_regularizer": "l2"},
        ),
        ("drop_inputs", (5, 6, 8), 1, {"activity_regularizer": "l2"}),
        ("drop_outputs", (6, 6, 5), 0, {"kernel_initializer": "he_normal"}),
        (
            "patches",
            (3, 4, 12),
            0,
            {"kernel_constraint": "non_neg", "scale_to_fan_in": False},
        ),
        ("patches_drop_both", (6, 3, 5), 0, {"bias_constraint": "max_norm"}),
    ],
)
def test_keras_layer_battery(name, shape, losses, options):
    topology, channels, own = CASES[name]
    options = {**own, **options}
    TestCase().run_layer_test(
        RadixConv2D,
        init_kwargs={"topology": topology, **options},
        input_shape=(2, 6, 7, channels),
        expected_output_shape=(2, *shape),
        expected_num_trainable_weights=1 + options.get("use_bias", True),
        expected_num_non_trainable_weights=0,
        expected_num_seed_generators=0,
        expected_num_losses=losses,
        supports_masking=False,
    )


FULL = {
    "channels": (RadixLayer(4, 4, 1, 1, 2), {"kernel_size": 3}),
    "copies": (RadixLayer(2, 2, 1, 2, 3), {"kernel_size": 2, "padding": "same"}),
    "groups": (RadixLayer(2, 2, 1, 1, 3), {"kernel_size": 2, "groups": 2}),
    "strides": (
        RadixLayer(1, 1, 1, 4, 5),
        {"kernel_size": (3, 2), "strides": 2, "padding": "same"},
    ),
    "dilation": (RadixLayer(4, 4, 1), {"kernel_size": 2, "dilation_rate": 2}),
    "patches": (RadixLayer(8, 8, 1, 3, 1), {"kernel_size": (2, 3), "strides": 2}),
}


@pytest.mark.parametrize("name", FULL)
@pytest.mark.often("channels", "groups", "strides", "patches")
def test_full_connectivity_is_dense(name):
    topology, options = FULL[name]
    source = L.Conv2D(
        options.get("groups", 1) * topology.output_size,
        activation="tanh",
        bias_initializer="normal",
        **options,
    )
    source.build((None, 6, 7, 4))
    radix = RadixConv2D.from_dense(source, topology)
    dense = radix.to_dense()
    assert_array_equal(dense.kernel, source.kernel)
    x = normal(4, 6, 7, 4)
    expected = source(x)
    assert_allclose(radix(x), expected, rtol=1e-5, atol=1e-5)
    y = normal(*expected.shape)
    for layer in (dense, radix):
        fit(keras.Sequential([keras.Input((6, 7, 4)), layer]), x, y)
    assert_allclose(radix.dense_kernel(), dense.kernel, rtol=1e-4, atol=1e-5)
    assert_allclose(radix.bias, dense.bias, rtol=1e-4, atol=1e-5)
    assert not np.allclose(dense.kernel, source.kernel, atol=1e-3)


@pytest.mark.parametrize("name", ["tiles", "drop_inputs", "drop_outputs", "patches"])
@pytest.mark.often("tiles", "drop_outputs", "patches")
def test_trains_as_the_masked_convolution(name):
    source = dense_layer(name, activation="tanh")
    copy = dense_layer(name, activation="tanh")
    copy.set_weights(source.get_weights())
    masked = Masked(copy, dense_mask(name))
    radix = RadixConv2D.from_dense(source, CASES[name][0])
    x = image(name)
    y = normal(*radix(x).shape)
    for layer in (masked, radix):
        fit(keras.Sequential([keras.Input(x.shape[1:]), layer]), x, y)
    assert_allclose(radix.dense_kernel(), masked.layer.kernel, rtol=1e-4, atol=1e-5)
    assert_allclose(radix(x), masked(x), rtol=1e-4, atol=1e-5)


@of_each
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_round_trip(name, data_format):
    source = dense_layer(
        name,
        data_format=data_format,
        activation="relu",
        kernel_regularizer="l2",
        kernel_initializer=keras.initializers.HeNormal(seed=3),
        dtype="mixed_bfloat16",
        name="logits",
        trainable=False,
    )
    topology = CASES[name][0]
    radix = RadixConv2D.from_dense(source, topology)
    dense = radix.to_dense()
    again = RadixConv2D.from_dense(dense, topology)
    assert type(dense) is L.Conv2D and dense.built and radix.built
    assert config_of(radix) == config_of(source) == config_of(dense)
    assert_array_equal(dense.kernel, values(source.kernel) * dense_mask(name))
    assert_array_equal(radix.dense_kernel(), dense.kernel)
    for old, new in zip(radix.get_weights(), again.get_weights(), strict=True):
        assert_array_equal(new, old)
    if source.use_bias:
        assert_array_equal(dense.bias, source.bias)


@of_each
def test_outputs_are_those_of_to_dense(name):
    layer = radix_layer(name, activation="tanh")
    x = image(name)
    outputs = layer(x)
    assert_allclose(outputs, layer.to_dense()(x), rtol=1e-5, atol=1e-5)
    assert layer.compute_output_shape(x.shape) == outputs.shape
    # Channels first too, which TensorFlow's own convolution cannot do on a CPU.
    first = RadixConv2D.from_config(
        {**layer.get_config(), "data_format": "channels_first"}
    )
    x = np.transpose(x, (0, 3, 1, 2))
    first.build(x.shape)
    first.set_weights(layer.get_weights())
    assert_array_equal(first(x), np.transpose(values(outputs), (0, 3, 1, 2)))
    assert first.compute_output_shape(x.shape) == first(x).shape


def test_from_dense_of_a_masked_layer():
    source = Masked(dense_layer("tiles"))
    mask = np.random.default_rng(0).random(dense_mask("tiles").shape) < 0.5
    source.set_masks(mask)
    dense = RadixConv2D.from_dense(source, TILES).to_dense()
    assert_array_equal(dense.kernel, source.layer.kernel * (mask & dense_mask("tiles")))


def test_from_dense_takes_what_lora_adds():
    source = dense_layer("tiles", lora_rank=2)
    source.lora_kernel_b.assign(np.ones(source.lora_kernel_b.shape))
    dense = RadixConv2D.from_dense(source, TILES).to_dense()
    assert_array_equal(dense.kernel, values(source.kernel) * dense_mask("tiles"))
    assert not dense.lora_enabled


def test_no_lora():
    with pytest.raises(NotImplementedError, match="LoRA"):
        radix_layer("tiles").enable_lora(2)


def test_from_dense_drops_channels():
    source = L.Conv2D(6, 2, groups=2)
    source.build((None, 6, 7, 14))
    layer = RadixConv2D.from_dense(source, RadixLayer(3, 1, 1, width_in=3))
    assert layer.topology.drop_inputs == 2
    mask = np.tile(layer.topology.mask(), (1, 2))
    assert_array_equal(layer.dense_kernel(), values(source.kernel) * mask)


def test_from_topology():
    layer = RadixConv2D.from_topology(TILES, (2, 3), strides=2, name="sparse")
    assert type(layer) is RadixConv2D and layer.name == "sparse"
    assert layer.kernel_size == (2, 3) and layer.strides == (2, 2)
    assert layer.topology == TILES and layer.filters == 8
    assert RadixConv2D(layer.get_config()["topology"], 1).topology == TILES


@pytest.mark.parametrize("groups", [1, 2])
def test_drops_channels_that_do_not_come(groups):
    layer = RadixConv2D(RadixLayer(10, 5, 1, 8, 3), 1, groups=groups)
    assert layer(np.ones((1, 2, 2, 74 * groups), "float32")).shape[-1] == 30 * groups
    assert layer.topology == RadixLayer(10, 5, 1, 8, 3, drop_inputs=6)
    copy = RadixConv2D.from_config(layer.get_config())
    copy.build((None, 2, 2, 74 * groups))
    assert copy.topology == layer.topology


@pytest.mark.parametrize("channels", [81, 70, 1])
def test_channels_that_do_not_fit(channels):
    layer = RadixConv2D(RadixLayer(10, 5, 1, 8, 3), 3, name="first")
    message = f"'first'.*10 .*80 inputs in the topology, {channels} coming in"
    with pytest.raises(ValueError, match=message):
        layer(np.ones((1, 4, 4, channels), "float32"))


def test_channels_that_no_groups_fit():
    layer = RadixConv2D(TILES, 3, groups=3, name="first")
    for channels in (23, None):
        with pytest.raises(ValueError, match=f"3, in layer 'first'.* {channels} chan"):
            layer.build((None, 4, 4, channels))
    with pytest.raises(ValueError, match="'first'.*8 inputs in the topology, 9 coming"):
        layer.build((None, 4, 4, 27))


def test_other_channels_once_built():
    with pytest.raises(ValueError, match="8"):
        radix_layer("tiles")(np.ones((1, 6, 7, 9), "float32"))


def test_image_smaller_than_the_filter():
    with pytest.raises(ValueError, match="[Oo]utput|negative"):
        RadixConv2D(TILES, 3).build((None, 1, 1, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": 2, "dilation_rate": 2}, "strides"),
        ({"kernel_size": 0}, "kernel_size"),
        ({"groups": 0}, "(filters|groups)"),
        ({"padding": "causal"}, "padding"),
        ({"strides": (1, 2, 3)}, "strides"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        RadixConv2D(TILES, **{"kernel_size": 3, **options})


@pytest.mark.parametrize("wrong", [None, 3, (8, 2, 1), "radix", TILES.mask()])
def test_wrong_topology(wrong):
    source = dense_layer("tiles")
    for make in (
        lambda topology: RadixConv2D(topology, 3),
        lambda topology: RadixConv2D.from_topology(topology, 3),
        lambda topology: RadixConv2D.from_dense(source, topology),
    ):
        with pytest.raises(TypeError, match="`topology` must be .*RadixLayer"):
            make(wrong)


def test_from_dense_of_what_is_none():
    wrong = (None, L.Dense(8), radix_layer("tiles"), L.Conv2DTranspose(8, 3))
    for layer in (*wrong, L.DepthwiseConv2D(3), L.Conv1D(8, 3), Masked(L.LSTM(3))):
        with pytest.raises(TypeError, match="`layer` must be a keras Conv2D layer"):
            RadixConv2D.from_dense(layer, TILES)


def test_not_built():
    with pytest.raises(ValueError, match="'later'"):
        RadixConv2D.from_dense(L.Conv2D(8, 3, name="later"), TILES)
    layer = RadixConv2D(TILES, 3, name="later")
    for convert in (layer.to_dense, layer.dense_kernel):
        with pytest.raises(ValueError, match="'later' must be built"):
            convert()


def test_from_dense_of_other_sizes():
    source = L.Conv2D(14, 3, groups=2, name="seven")
    source.build((None, 6, 7, 16))
    with pytest.raises(ValueError, match="7 outputs .* group .*'seven'.* 8 outputs"):
        RadixConv2D.from_dense(source, TILES)
    source = L.Conv2D(8, 3, name="nine")
    source.build((None, 6, 7, 9))
    with pytest.raises(ValueError, match="'nine'.* 8 inputs .* 9 coming"):
        RadixConv2D.from_dense(source, TILES)


@pytest.mark.parametrize(
    ("topology", "channels", "options"),
    [
        (RadixLayer(40, 10, 1, 2, 2), 80, {"kernel_size": 3}),
        (RadixLayer(40, 10, 1, 2, 2, 16, 5), 128, {"kernel_size": 3, "groups": 2}),
        (RadixLayer(90, 10, 3, 1, 6, 0, 5), 10, {"kernel_size": 3}),
    ],
    ids=["channels", "groups", "patches"],
)
def test_initial_variance_follows_the_true_fans(topology, channels, options):
    mask = topology.mask()
    positions = 1 if topology.input_size == 9 * channels else 9
    for initializer, fan in (("he_normal", 0), ("lecun_uniform", 0)):
        scale = 2 if initializer == "he_normal" else 1
        for scaled, fan_in in ((True, mask.sum(axis=fan).mean()), (False, len(mask))):
            layer = RadixConv2D(
                topology,
                kernel_initializer=initializer,
                scale_to_fan_in=scaled,
                **options,
            )
            layer.build((None, 6, 7, channels))
            values = np.ravel(layer.kernel)
            # The spread of the estimate is (kurtosis - 1)^0.5 / n^0.5: at most 0.02.
            expected = scale / (positions * fan_in)
            assert np.var(values) == pytest.approx(expected, rel=0.08)
            assert abs(values.mean()) < 5 * values.std() / values.size**0.5


def test_unscaled_variance_is_that_of_dense():
    dense = L.Conv2D(40, 3, kernel_initializer="glorot_uniform")
    dense.build((None, 6, 7, 40))
    layer = RadixConv2D(RadixLayer(40, 10, 1), 3, scale_to_fan_in=False)
    layer.build((None, 6, 7, 40))
    assert np.max(layer.kernel) == pytest.approx(np.max(dense.kernel), rel=0.01)


def test_regularizers_see_the_nonzeros():
    layer = radix_layer(
        "groups",
        kernel_regularizer=keras.regularizers.L2(0.5),
        bias_regularizer=keras.regularizers.L1(0.25),
        activity_regularizer=keras.regularizers.L1(0.1),
        bias_initializer="ones",
    )
    outputs = values(layer(image("groups")))
    expected = [
        0.5 * np.square(layer.dense_kernel()).sum(),
        0.25 * layer.filters,
        activity_loss(outputs, keras.regularizers.L1(0.1)),
    ]
    losses = sorted(float(values(loss)) for loss in layer.losses)
    assert_allclose(losses, sorted(expected), rtol=1e-5)


def test_constraints_hold():
    layer = radix_layer("tiles", kernel_constraint="non_neg", bias_constraint="non_neg")
    assert np.min(layer.kernel) < 0
    x = image("tiles")
    fit(keras.Sequential([keras.Input(x.shape[1:]), layer]), x, -np.ones(x.shape))
    assert all(np.min(weight) == 0 for weight in layer.get_weights())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
@pytest.mark.parametrize("name", ["drop_inputs", "patches"])
@pytest.mark.often("drop_inputs-*", "patches-float64")
def test_dtype_policy(name, policy):
    layer = radix_layer(name, dtype=policy)
    compute = keras.DTypePolicy(policy).compute_dtype
    x = image(name)
    outputs = layer(x)
    assert keras.backend.standardize_dtype(outputs.dtype) == compute
    assert layer.kernel.dtype == ("float64" if policy == "float64" else "float32")
    expected = layer.to_dense()(x)
    assert keras.backend.standardize_dtype(expected.dtype) == compute
    eps = {"bfloat16": 2**-6, "float16": 2**-9, "float64": DOUBLE_PRECISION}[compute]
    assert_allclose(
        values(outputs).astype("float64"),
        values(expected).astype("float64"),
        rtol=eps,
        atol=eps,
    )
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    history = fit(model, x, normal(*outputs.shape))
    assert np.isfinite(history.history["loss"]).all()


@of_each
def test_weights_gradient_and_slots_are_the_nonzeros(name):
    layer = radix_layer(name)
    sizes = [int(dense_mask(name).sum())]
    if layer.use_bias:
        sizes.append(layer.filters)
    assert [int(np.prod(w.shape)) for w in layer.weights] == sizes
    assert layer.variables == layer.trainable_variables == layer.weights
    kernel, x = layer.trainable_variables[0], image(name)
    [gradient] = gradients_of(lambda: keras.ops.sum(layer(x) ** 2), [kernel])
    assert keras.ops.is_tensor(gradient) and np.size(values(gradient)) == sizes[0]
    optimizer = keras.optimizers.Adam()
    optimizer.build(layer.trainable_variables)
    slots = [int(np.prod(v.shape)) for v in optimizer.variables[2:]]
    assert sorted(slots) == sorted(2 * sizes)


@of_each
def test_saves_and_loads(name, tmp_path):
    model = whole_model(name)
    x = image(name)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("radix").topology == CASES[name][0]
    assert_array_equal(loaded(x), model(x))
    model.save_weights(tmp_path / "w.weights.h5")
    other = whole_model(name)
    assert not np.allclose(values(other(x)), values(model(x)))
    other.load_weights(tmp_path / "w.weights.h5")
    assert_array_equal(other(x), model(x))


@some
def test_trains_compiled_as_uncompiled(name):
    x, y = image(name, 8), normal(8, 3)
    start = whole_model(name)
    losses = []
    for jit in (COMPILES_FAST, False):
        model = keras.models.clone_model(start)
        model.set_weights(start.get_weights())
        assert_array_equal(model(x), start(x))
        losses.append(fit(model, x, y, jit_compile=jit).history["loss"])
    assert_allclose(*losses, rtol=1e-5)
    assert losses[0][1] < losses[0][0]


def test_images_of_unknown_sizes():
    inputs = keras.Input((None, None, 6))
    topology, _, options = CASES["groups"]
    model = keras.Model(inputs, RadixConv2D(topology, **options)(inputs))
    assert model.output_shape == (None, None, None, 14)
    for height, width in ((6, 7), (9, 4)):
        x = normal(2, height, width, 6)
        expected = model.layers[1].to_dense()(x)
        assert_allclose(model.predict(x, verbose=0), expected, atol=1e-5)


def test_sparsify_leaves_it_as_it_is():
    model = whole_model()
    sparse = stf.sparsify(model)
    assert type(sparse.get_layer("radix")) is RadixConv2D
    assert list(stf.get_masks(sparse)) == ["out/kernel"]
    x = image("tiles")
    assert_array_equal(sparse(x), model(x))
    assert_allclose(stf.strip(sparse)(x), model(x), rtol=1e-5, atol=1e-5)
    assert str(stf.summary(sparse, print_fn=None))


def test_sparsify_summary_and_strip_of_a_model_of_these_alone():
    model = keras.Sequential([keras.Input((6, 7, 8)), RadixConv2D(TILES, 3)])
    sparse = stf.sparsify(model)
    assert type(sparse.layers[0]) is RadixConv2D
    x = image("tiles")
    assert_array_equal(sparse(x), model(x))
    assert_allclose(stf.strip(model)(x), model(x), rtol=1e-5, atol=1e-5)
    assert str(stf.summary(sparse, print_fn=None))
