"""`RadixDense`: as `Dense` where both can be, with nothing but the nonzeros."""

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
from sparsenet_tf.layers import Masked, RadixDense, nonzero_weights
from sparsenet_tf.topology import RadixLayer, RadixNet

L = keras.layers

TOPOLOGIES = {
    "tiles": RadixLayer(8, 2, 2, width_in=2, width_out=1),
    "one_tile": RadixLayer(6, 3, 2, width_out=2),
    "drop_inputs": RadixLayer(8, 2, 1, 2, 2, drop_inputs=10),
    "drop_outputs": RadixLayer(8, 2, 2, 1, 2, drop_outputs=3),
    "drop_both": RadixLayer(6, 2, 1, 2, 2, drop_inputs=7, drop_outputs=2),
}
of_each = pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
TILES = TOPOLOGIES["tiles"]


def built(topology, **options):
    layer = RadixDense(topology, **options)
    layer.build((None, topology.input_size))
    return layer


def dense_layer(topology, **options):
    options = {"bias_initializer": "normal", **options}
    layer = L.Dense(topology.output_size, **options)
    layer.build((None, topology.input_size))
    return layer


def normal(*shape):
    return np.random.default_rng(2).normal(size=shape).astype("float32")


def two_layers(topology=TILES):
    return keras.Sequential(
        [
            keras.Input((topology.input_size,)),
            RadixDense(topology, "relu", name="radix"),
            L.Dense(3, name="out"),
        ]
    )


def fit(model, x, y, **options):
    model.compile(keras.optimizers.Adam(0.01), "mse", **options)
    model.optimizer.build(model.trainable_variables)  # or steps are traced twice
    return model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)


def config_of(layer):
    """The config without what only one of Dense and RadixDense has."""
    names = ("units", "topology", "scale_to_fan_in", "quantization_config")
    return {k: v for k, v in layer.get_config().items() if k not in names}


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")  # by the battery
@pytest.mark.parametrize(
    ("topology", "shape", "weights", "losses", "options"),
    [
        ("tiles", (2,), 1, 0, {"activation": "relu", "use_bias": False}),
        (
            "one_tile",
            (2, 3),
            2,
            2,
            {"kernel_regularizer": "l2", "bias_regularizer": "l1"},
        ),
        ("drop_inputs", (2, 3, 2), 2, 1, {"activity_regularizer": "l2"}),
        ("drop_outputs", (3,), 2, 0, {"kernel_initializer": "he_normal"}),
        (
            "drop_both",
            (2,),
            2,
            0,
            {
                "kernel_constraint": "non_neg",
                "bias_constraint": "max_norm",
                "scale_to_fan_in": False,
            },
        ),
    ],
)
def test_keras_layer_battery(topology, shape, weights, losses, options):
    topology = TOPOLOGIES[topology]
    TestCase().run_layer_test(
        RadixDense,
        init_kwargs={"topology": topology, **options},
        input_shape=(*shape, topology.input_size),
        expected_output_shape=(*shape, topology.output_size),
        expected_num_trainable_weights=weights,
        expected_num_non_trainable_weights=0,
        expected_num_seed_generators=0,
        expected_num_losses=losses,
        supports_masking=True,
    )


@pytest.mark.parametrize(
    ("topology", "shape"),
    [
        (RadixLayer(8, 8, 1), (6,)),
        (RadixLayer(4, 4, 1, 2, 3), (2, 3, 4)),
        (RadixLayer(1, 1, 1, 8, 5), (6,)),
    ],
    ids=["one_copy", "copies", "copies_of_one_node"],
)
def test_full_connectivity_is_dense(topology, shape):
    source = dense_layer(topology, activation="tanh")
    models = []
    for make in (lambda s: s.to_dense(), lambda s: s):
        radix = RadixDense.from_dense(source, topology)
        models.append(
            keras.Sequential([keras.Input((None,) * (len(shape) - 1) + (8,))])
        )
        models[-1].add(make(radix))
    dense, radix = models
    assert_array_equal(dense.layers[0].kernel, source.kernel)
    x, y = normal(*shape, 8), normal(*shape, topology.output_size)
    assert_allclose(radix(x), source(x), rtol=1e-5, atol=1e-6)
    fit(dense, x, y)
    fit(radix, x, y)
    assert_allclose(
        radix.layers[0].dense_kernel(), dense.layers[0].kernel, rtol=1e-4, atol=1e-6
    )
    assert_allclose(radix.layers[0].bias, dense.layers[0].bias, rtol=1e-4, atol=1e-6)
    assert not np.allclose(dense.layers[0].kernel, source.kernel, atol=1e-3)


@of_each
@pytest.mark.often("tiles", "drop_both")
def test_trains_as_the_masked_dense_layer(topology):
    source = dense_layer(topology, activation="tanh")
    copy = dense_layer(topology, activation="tanh")
    copy.set_weights(source.get_weights())
    masked = Masked(copy, topology.mask())
    radix = RadixDense.from_dense(source, topology)
    x, y = normal(12, topology.input_size), normal(12, topology.output_size)
    for layer in (masked, radix):
        fit(keras.Sequential([keras.Input((topology.input_size,)), layer]), x, y)
    # Adam divides by gradients near zero, which enlarges last bits of them.
    assert_allclose(radix.dense_kernel(), masked.layer.kernel, rtol=1e-4, atol=1e-5)
    assert_allclose(radix.bias, masked.layer.bias, rtol=1e-4, atol=1e-5)
    assert_allclose(radix(x), masked(x), rtol=1e-4, atol=1e-5)


@of_each
@pytest.mark.parametrize("use_bias", [True, False])
def test_round_trip(topology, use_bias):
    source = dense_layer(
        topology,
        activation="relu",
        use_bias=use_bias,
        kernel_regularizer="l2",
        kernel_constraint="unit_norm",
        kernel_initializer=keras.initializers.HeNormal(seed=3),
        activity_regularizer="l1",
        dtype="mixed_bfloat16",
        name="logits",
        trainable=False,
    )
    radix = RadixDense.from_dense(source, topology)
    dense = radix.to_dense()
    again = RadixDense.from_dense(dense, topology)
    assert type(dense) is L.Dense and dense.built and radix.built
    assert config_of(radix) == config_of(source) == config_of(dense)
    mask = topology.mask()
    assert_array_equal(dense.kernel, values(source.kernel) * mask)
    assert_array_equal(radix.dense_kernel(), dense.kernel)
    for old, new in zip(radix.get_weights(), again.get_weights(), strict=True):
        assert_array_equal(new, old)
    if use_bias:
        assert_array_equal(radix.bias, source.bias)
    for name in ("kernel", "bias")[: 1 + use_bias]:  # copies, not the source's own
        assert getattr(radix, name) is not getattr(source, name)


@of_each
def test_outputs_are_those_of_to_dense(topology):
    layer = built(topology, activation="tanh", bias_initializer="normal")
    x = normal(2, 3, topology.input_size)
    assert_allclose(layer(x), layer.to_dense()(x), rtol=1e-5, atol=1e-6)
    assert layer.units == topology.output_size
    assert layer.compute_output_shape((None, 3, 9)) == (None, 3, layer.units)


def test_from_dense_of_a_masked_layer():
    source = Masked(dense_layer(TILES))
    mask = np.random.default_rng(0).random(TILES.mask().shape) < 0.5
    source.set_masks(mask)
    dense = RadixDense.from_dense(source, TILES).to_dense()
    assert_array_equal(dense.kernel, source.layer.kernel * (mask & TILES.mask()))


def test_from_dense_takes_what_lora_adds():
    source = dense_layer(TILES)
    source.enable_lora(2)
    source.lora_kernel_b.assign(np.ones(source.lora_kernel_b.shape))
    dense = RadixDense.from_dense(source, TILES).to_dense()
    assert_array_equal(dense.kernel, values(source.kernel) * TILES.mask())


def test_from_dense_drops_inputs():
    source = L.Dense(3)
    source.build((None, 7))
    layer = RadixDense.from_dense(source, RadixLayer(3, 1, 1, width_in=3))
    assert layer.topology.drop_inputs == 2
    assert_array_equal(
        layer.dense_kernel(), values(source.kernel) * layer.topology.mask()
    )


def test_from_topology():
    layer = RadixDense.from_topology(TILES, activation="relu", name="sparse")
    assert type(layer) is RadixDense and layer.name == "sparse"
    assert layer.topology == TILES and layer.activation is keras.activations.relu
    assert RadixDense(layer.get_config()["topology"]).topology == TILES


def test_drops_inputs_that_do_not_come():
    topology = RadixNet((10, 10), (8, 3, 1)).layers[0]
    layer = RadixDense(topology)
    assert layer(np.ones((2, 784), "float32")).shape == (2, 300)
    assert layer.topology == RadixLayer(100, 10, 1, 8, 3, drop_inputs=16)
    assert_array_equal(layer.dense_kernel() != 0, topology.mask()[16:])
    # A copy of it is built with what the first one dropped.
    copy = RadixDense.from_config(layer.get_config())
    copy.build((None, 784))
    assert copy.topology == layer.topology


def test_drops_more_where_some_are_dropped():
    layer = RadixDense(RadixLayer(8, 2, 1, 2, drop_inputs=3))
    layer.build((None, 9))
    assert layer.topology.drop_inputs == 7
    with pytest.raises(ValueError, match="8 inputs|13 inputs"):
        RadixDense(RadixLayer(8, 2, 1, 2, drop_inputs=3)).build((None, 8))


@pytest.mark.parametrize("size", [801, 700, 1])
def test_inputs_that_do_not_fit(size):
    layer = RadixDense(RadixLayer(100, 10, 1, 8, 3), name="first")
    message = f"'first'.*100 .*800 inputs in the topology, {size} coming in"
    with pytest.raises(ValueError, match=message):
        layer(np.ones((2, size), "float32"))


def test_unknown_number_of_inputs():
    with pytest.raises(ValueError, match="'first'.*None"):
        RadixDense(TILES, name="first").build((None, None))


def test_other_inputs_once_built():
    layer = built(RadixLayer(100, 10, 1, 8))
    with pytest.raises(ValueError, match="800"):
        layer(np.ones((2, 799), "float32"))


@pytest.mark.parametrize("wrong", [None, 3, (8, 2, 1), "radix", TILES.mask()])
def test_wrong_topology(wrong):
    source = dense_layer(TILES)
    for make in (
        RadixDense,
        RadixDense.from_topology,
        lambda topology: RadixDense.from_dense(source, topology),
    ):
        with pytest.raises(TypeError, match="`topology` must be .*RadixLayer"):
            make(wrong)


def test_from_dense_of_what_is_none():
    for wrong in (None, L.Conv2D(3, 3), built(TILES), Masked(L.LSTM(3))):
        with pytest.raises(TypeError, match="`layer` must be a keras Dense layer"):
            RadixDense.from_dense(wrong, TILES)


def test_not_built():
    with pytest.raises(ValueError, match="'later'"):
        RadixDense.from_dense(L.Dense(8, name="later"), TILES)
    with pytest.raises(ValueError, match="'later' must be built"):
        RadixDense(TILES, name="later").to_dense()
    with pytest.raises(ValueError, match="'later' must be built"):
        RadixDense(TILES, name="later").dense_kernel()


def test_from_dense_of_other_sizes():
    source = L.Dense(7, name="seven")
    source.build((None, TILES.input_size))
    with pytest.raises(ValueError, match="the 7 outputs .*'seven'.* 8 outputs"):
        RadixDense.from_dense(source, TILES)
    source = L.Dense(8, name="eight")
    source.build((None, 17))
    with pytest.raises(ValueError, match="'eight'.* 16 inputs .* 17 coming"):
        RadixDense.from_dense(source, TILES)


INITIALIZERS = {
    "glorot_uniform": lambda fans: 2 / sum(fans),
    "glorot_normal": lambda fans: 2 / sum(fans),
    "he_normal": lambda fans: 2 / fans[0],
    "he_uniform": lambda fans: 2 / fans[0],
    "lecun_normal": lambda fans: 1 / fans[0],
}


@pytest.mark.parametrize("name", INITIALIZERS)
@pytest.mark.parametrize(
    "topology",
    [
        RadixLayer(100, 10, 1, 4, 8),
        RadixLayer(100, 10, 1, 4, 8, drop_inputs=16),
        RadixLayer(100, 10, 1, 4, 8, drop_inputs=110, drop_outputs=30),
    ],
    ids=["whole", "drop_inputs", "drop_both"],
)
def test_initial_variance_follows_the_true_fans(name, topology):
    mask = topology.mask()
    fans = mask.sum(axis=0).mean(), mask.sum(axis=1).mean()
    for scale, expected in ((True, fans), (False, mask.shape)):
        layer = built(
            topology,
            kernel_initializer=keras.initializers.get(
                {"class_name": name, "config": {"seed": 5}}
            ),
            scale_to_fan_in=scale,
        )
        values = np.ravel(layer.kernel)
        assert values.size > 20000
        # The spread of the estimate is (kurtosis - 1)^0.5 / n^0.5, below 0.01.
        assert np.var(values) == pytest.approx(INITIALIZERS[name](expected), rel=0.04)
        assert abs(values.mean()) < 5 * values.std() / values.size**0.5


def test_unscaled_variance_is_that_of_dense():
    topology = RadixLayer(100, 10, 1, 4, 8)
    dense = L.Dense(topology.output_size, kernel_initializer="he_uniform")
    dense.build((None, topology.input_size))
    layer = built(topology, kernel_initializer="he_uniform", scale_to_fan_in=False)
    assert np.std(layer.kernel) == pytest.approx(np.std(dense.kernel), rel=0.02)
    assert np.max(layer.kernel) == pytest.approx(np.max(dense.kernel), rel=0.01)


def test_true_fans_keep_the_variance_of_activations():
    topology = RadixLayer(256, 4, 1, 2, 2)
    layer = built(topology, kernel_initializer="lecun_normal", use_bias=False)
    outputs = layer(normal(200, topology.input_size))
    assert np.var(values(outputs)) == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize("name", ["zeros", "ones", "random_normal"])
def test_other_initializers_are_as_they_are(name):
    initializer = keras.initializers.get(name)
    assert nonzero_weights.initializer_for_fans(initializer, 3, 4) is initializer


def test_initial_values_repeat_with_a_seed():
    first, second = (
        built(TILES, kernel_initializer=keras.initializers.HeNormal(seed=4))
        for _ in range(2)
    )
    assert_array_equal(first.kernel, second.kernel)


def test_regularizers_see_the_nonzeros():
    layer = built(
        TILES,
        kernel_regularizer=keras.regularizers.L2(0.5),
        bias_regularizer=keras.regularizers.L1(0.25),
        activity_regularizer=keras.regularizers.L1(0.1),
        bias_initializer="ones",
    )
    x = normal(4, TILES.input_size)
    outputs = values(layer(x))
    losses = sorted(float(values(loss)) for loss in layer.losses)
    expected = [
        0.5 * np.square(layer.kernel.numpy()).sum(),
        0.25 * TILES.output_size,
        activity_loss(outputs, keras.regularizers.L1(0.1)),
    ]
    assert_allclose(losses, sorted(expected), rtol=1e-5)


def test_constraints_hold():
    model = keras.Sequential(
        [
            keras.Input((TILES.input_size,)),
            RadixDense(TILES, kernel_constraint="non_neg", bias_constraint="non_neg"),
        ]
    )
    assert np.min(model.layers[0].kernel) < 0
    fit(model, normal(8, TILES.input_size), -np.ones((8, TILES.output_size)))
    assert all(np.min(weight) == 0 for weight in model.get_weights())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_dtype_policy(policy):
    layer = built(TILES, dtype=policy)
    compute = keras.DTypePolicy(policy).compute_dtype
    x = normal(4, TILES.input_size)
    outputs = layer(x)
    assert keras.backend.standardize_dtype(outputs.dtype) == compute
    assert layer.kernel.dtype == ("float64" if policy == "float64" else "float32")
    expected = layer.to_dense()(x)
    assert keras.backend.standardize_dtype(expected.dtype) == compute
    eps = {"bfloat16": 2**-7, "float16": 2**-10, "float64": DOUBLE_PRECISION}[compute]
    assert_allclose(
        values(outputs).astype("float64"),
        values(expected).astype("float64"),
        rtol=eps,
        atol=eps,
    )
    model = keras.Sequential([keras.Input((TILES.input_size,)), layer])
    history = fit(model, x, normal(4, TILES.output_size))
    assert np.isfinite(history.history["loss"]).all()


@of_each
def test_weights_gradient_and_slots_are_the_nonzeros(topology):
    layer = built(topology)
    assert layer.kernel.shape == stf.kernels.radix.kernel_shape(topology)
    assert [w.name for w in layer.weights] == ["kernel", "bias"]
    assert layer.variables == layer.trainable_variables == layer.weights
    assert layer.count_params() == topology.num_connections + topology.output_size
    x = normal(3, topology.input_size)
    [gradient] = gradients_of(lambda: keras.ops.sum(layer(x) ** 2), [layer.kernel])
    assert keras.ops.is_tensor(gradient)
    assert np.size(values(gradient)) == topology.num_connections
    optimizer = keras.optimizers.Adam()
    optimizer.build(layer.trainable_variables)
    slots = sorted(int(np.prod(v.shape)) for v in optimizer.variables[2:])
    sizes = [topology.num_connections, topology.output_size]
    assert slots == sorted(2 * sizes)


@of_each
def test_saves_and_loads(topology, tmp_path):
    model = two_layers(topology)
    x = normal(12, topology.input_size)
    fit(model, x, normal(12, 3))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("radix").topology == topology
    assert_array_equal(loaded(x), model(x))
    for old, new in zip(
        model.optimizer.variables, loaded.optimizer.variables, strict=True
    ):
        assert_array_equal(new, old)
    model.save_weights(tmp_path / "w.weights.h5")
    other = two_layers(topology)
    assert not np.allclose(values(other(x)), values(model(x)))
    other.load_weights(tmp_path / "w.weights.h5")
    assert_array_equal(other(x), model(x))


def test_saves_what_it_dropped(tmp_path):
    model = keras.Sequential(
        [keras.Input((784,)), RadixDense(RadixNet((10, 10), (8, 3, 1)).layers[0])]
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_array_equal(
        loaded(np.ones((1, 784), "float32")), model(np.ones((1, 784), "float32"))
    )


def test_trains_compiled_as_uncompiled():
    topology = TOPOLOGIES["drop_both"]
    x, y = normal(8, topology.input_size), normal(8, 3)
    start = two_layers(topology)
    losses = []
    for jit in (COMPILES_FAST, False):
        model = keras.models.clone_model(start)
        model.set_weights(start.get_weights())
        losses.append(fit(model, x, y, jit_compile=jit).history["loss"])
    assert_allclose(*losses, rtol=1e-5)
    assert losses[0][1] < losses[0][0]


def test_clone_model():
    model = two_layers(TOPOLOGIES["drop_both"])
    copy = keras.models.clone_model(model)
    assert isinstance(copy.get_layer("radix"), RadixDense)
    copy.set_weights(model.get_weights())
    x = normal(3, model.input_shape[-1])
    assert_array_equal(copy(x), model(x))


def test_passes_timestep_masks_on():
    embedding = L.Embedding(5, TILES.input_size, mask_zero=True)
    hidden = RadixDense(TILES)(embedding(np.array([[1, 2, 0], [3, 0, 0]])))
    assert_array_equal(keras.src.backend.get_keras_mask(hidden), [[1, 1, 0], [1, 0, 0]])


def test_sparsify_leaves_it_as_it_is():
    model = two_layers()
    sparse = stf.sparsify(model)
    assert type(sparse.get_layer("radix")) is RadixDense
    assert type(sparse.get_layer("out")) is Masked
    assert list(stf.get_masks(sparse)) == ["out/kernel"]
    x = normal(12, TILES.input_size)
    assert_array_equal(sparse(x), model(x))
    pruned = stf.pruning.prune_one_shot(model, 0.5)
    assert np.count_nonzero(pruned.get_layer("out").kernel) == 12
    assert_array_equal(
        pruned.get_layer("radix").kernel, model.get_layer("radix").kernel
    )
    assert_allclose(stf.strip(sparse)(x), model(x), rtol=1e-5, atol=1e-5)


def test_summary_and_strip_of_a_model_of_these_alone():
    model = keras.Sequential([keras.Input((TILES.input_size,)), RadixDense(TILES)])
    sparse = stf.sparsify(model)
    assert type(sparse.layers[0]) is RadixDense
    with pytest.raises(ValueError, match="must have masked kernels"):
        stf.get_masks(sparse)
    x = normal(3, TILES.input_size)
    assert_array_equal(sparse(x), model(x))
    assert_allclose(stf.strip(model)(x), model(x), rtol=1e-5, atol=1e-5)
    for each in (model, two_layers(), stf.sparsify(two_layers())):
        assert str(stf.summary(each, print_fn=None))


def test_in_a_subclassed_model_and_time_distributed():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.radix = RadixDense(TILES)
            self.each = L.TimeDistributed(RadixDense(RadixLayer(8, 2, 1)))
            self.out = L.Dense(2)

        def call(self, x):
            return self.out(self.each(self.radix(x)))

    model = Own()
    x = normal(2, 3, TILES.input_size)
    before = model(x)
    assert stf.sparsify(model) is model
    assert type(model.radix) is RadixDense and type(model.out) is Masked
    assert type(model.each) is L.TimeDistributed
    assert_array_equal(model(x), before)
