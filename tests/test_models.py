import itertools
import random

import keras
import numpy as np
import pytest
from backends import BACKEND, assert_allclose, assert_array_equal, values

from sparsenet_tf.experiments import models
from sparsenet_tf.experiments.lrn import LocalResponseNormalization

BUILDERS = [models.lenet_300_100, models.lenet_5]
SETTINGS = [
    (models.lenet_300_100, {}),
    (models.lenet_300_100, models.PAPER_LENET_300_100),
    (models.lenet_5, {}),
    (models.lenet_5, models.PAPER_LENET_5),
    (models.lenet_5, models.PAPER_LENET_5_CIFAR10),
]


def kernel_layers(model):
    return [layer.name for layer in model.layers if hasattr(layer, "kernel")]


def images(model, count=2):
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(0).random(shape, "float32")


# Shapes.


def test_lenet_300_100():
    model = models.lenet_300_100()
    assert model.built and model.count_params() == 266_610
    assert kernel_layers(model) == ["dense1", "dense2", "logits"]
    assert model.output_shape == (None, 10)


def test_lenet_5():
    model = models.lenet_5()
    conv = 5 * 5 * 20 + 20 + 5 * 5 * 20 * 50 + 50
    dense = 2450 * 384 + 384 + 384 * 10 + 10
    assert model.built and model.count_params() == conv + dense == 970_604
    assert kernel_layers(model) == ["conv1", "conv2", "dense1", "logits"]
    assert model.output_shape == (None, 10)


def test_lenet_5_on_cifar10_crops():
    model = models.lenet_5(**models.PAPER_LENET_5_CIFAR10)
    assert model.get_layer("dense1").kernel.shape == (1800, 384)
    assert model.get_layer("conv1").kernel.shape == (5, 5, 3, 20)
    names = [layer.name for layer in model.layers]
    assert "norm1" in names and "norm2" not in names


def test_widths_and_classes():
    model = models.lenet_300_100((16,), 3, units=(7, 5))
    assert [w.shape for w in model.weights[::2]] == [(16, 7), (7, 5), (5, 3)]
    model = models.lenet_5((8, 8, 2), 3, filters=(4, 6), units=7, pool_stride=4)
    assert model.get_layer("conv2").kernel.shape == (5, 5, 4, 6)
    assert model.get_layer("dense1").kernel.shape == (6, 7)
    assert model.output_shape == (None, 3)


# The authors' oddities.


@pytest.mark.parametrize("build", BUILDERS)
def test_defaults_are_modern(build):
    model = build(seed=0)
    assert model.losses == []
    assert values(model(images(model))).min() < 0
    for name in kernel_layers(model):
        assert not model.get_layer(name).bias.numpy().any()
    assert not any(isinstance(x, LocalResponseNormalization) for x in model.layers)


@pytest.mark.parametrize("build, settings", SETTINGS[1::2] + SETTINGS[4:])
def test_the_authors_logits_are_relu(build, settings):
    model = build(**settings, seed=1)
    linear = build(**{**settings, "logit_activation": None}, seed=1)
    x = images(model, 20)
    assert values(linear(x)).min() < 0
    assert_array_equal(values(model(x)), np.maximum(values(linear(x)), 0))


@pytest.mark.parametrize("build, settings", SETTINGS[1::2])
def test_the_authors_initial_values(build, settings):
    model = build(**settings, seed=0)
    for name in kernel_layers(model):
        layer = model.get_layer(name)
        stddev, bias = (0.05, 0.0) if name.startswith("conv") else (0.04, 0.1)
        assert_array_equal(layer.bias, np.float32(bias))
        # Truncated at two deviations, which leaves 0.88 of the spread. With PyTorch
        # Keras gives up after four draws.
        beyond = (np.abs(layer.kernel) > 2 * stddev * 1.0001).mean()
        assert beyond <= (1e-5 if BACKEND == "torch" else 0)
        assert np.std(layer.kernel) == pytest.approx(0.88 * stddev, rel=0.1)


def test_normalization_comes_after_the_first_pool_and_before_the_second():
    names = [x.name for x in models.lenet_5(**models.PAPER_LENET_5).layers]
    order = ["conv1", "pool1", "norm1", "conv2", "norm2", "pool2"]
    assert names == [*order, "flatten", "dense1", "logits"]


# Seeds.


@pytest.mark.parametrize("build, settings", SETTINGS)
def test_equal_seeds_give_equal_weights(build, settings):
    weights = (build(**settings, seed=seed).get_weights() for seed in (1, 1, 2))
    for a, b, c in zip(*weights, strict=True):
        assert_array_equal(a, b)
        assert a.ndim == 1 or (a != c).any()


def test_no_two_kernels_share_a_stream():
    model = models.lenet_300_100((30,), 30, units=(30, 30), seed=0)
    kernels = [model.get_layer(name).kernel.numpy() for name in kernel_layers(model)]
    for a, b in itertools.combinations(kernels, 2):
        assert (a != b).any()


@pytest.mark.parametrize("build, settings", SETTINGS)
def test_a_seeded_model_leaves_the_global_random_numbers_alone(build, settings):
    def global_state():
        name, keys, *rest = np.random.get_state()
        return random.getstate(), keys.tobytes(), rest

    before = global_state()
    build(**settings, seed=3)
    assert global_state() == before


@pytest.mark.parametrize(
    "initializer",
    ["he_normal", keras.initializers.HeNormal(seed=8)]
    + [{"class_name": "HeNormal", "config": {}}],
)
def test_every_form_of_initializer_takes_the_seed(initializer):
    model = models.lenet_300_100(kernel_initializer=initializer, seed=0)
    expected = models.lenet_300_100(kernel_initializer="he_normal", seed=0)
    assert_array_equal(model.weights[0], expected.weights[0])


@pytest.mark.parametrize("build", BUILDERS)
def test_without_a_seed_keras_global_seed_holds(build):
    state = random.getstate(), np.random.get_state()
    try:
        keras.utils.set_random_seed(4)
        first = build().get_weights()
        keras.utils.set_random_seed(4)
        second = build().get_weights()
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
    assert_array_equal(first[0], second[0])


# Arguments and configs.


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize(
    "argument, value, match",
    [
        ("weight_decay", -0.1, "`weight_decay`.*-0.1"),
        ("seed", -1, "`seed`.*-1"),
        ("seed", 1.5, "`seed`.*1.5"),
    ],
)
def test_arguments_are_checked(build, argument, value, match):
    with pytest.raises(ValueError, match=match):
        build(**{argument: value})


def test_a_seed_needs_an_initializer_that_takes_one():
    for initializer in ("zeros", lambda shape, dtype=None: np.zeros(shape, dtype)):
        with pytest.raises(ValueError, match="takes a seed"):
            models.lenet_300_100(kernel_initializer=initializer, seed=0)
        model = models.lenet_300_100(kernel_initializer=initializer)
        assert not model.weights[0].numpy().any()


@pytest.mark.parametrize("build, settings", SETTINGS)
def test_config_round_trip(build, settings):
    model = build(**settings, seed=0)
    clone = keras.Sequential.from_config(model.get_config())
    assert clone.get_config() == model.get_config()
    clone.set_weights(model.get_weights())
    x = images(model)
    assert_array_equal(clone(x), model(x))


def test_saved_file_round_trip(tmp_path):
    model = models.lenet_5(**models.PAPER_LENET_5, filters=(2, 3), units=4, seed=0)
    model.save(tmp_path / "model.keras")
    x = images(model)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_array_equal(loaded(x), model(x))


def test_settings_are_read_only():
    with pytest.raises(TypeError):
        models.PAPER_LENET_5["seed"] = 1


# Local response normalization.


@pytest.mark.parametrize("channels", [1, 4, 20])
@pytest.mark.parametrize("radius", [0, 2, 4, 30])
def test_normalization_equals_its_formula(channels, radius):
    x = np.random.default_rng(0).normal(size=(2, 3, 5, channels)) * 3
    layer = LocalResponseNormalization(radius, bias=2.0, alpha=0.3, beta=0.6)
    near = np.abs(np.subtract.outer(range(channels), range(channels))) <= radius
    expected = x / (2.0 + 0.3 * (x**2 @ near)) ** 0.6
    assert_allclose(layer(x.astype("float32")), expected, rtol=1e-4, atol=1e-5)


def test_normalization_config_and_arguments():
    layer = LocalResponseNormalization(3, bias=2.0, alpha=0.1, beta=0.5, name="n")
    config = keras.saving.serialize_keras_object(layer)
    assert config["registered_name"] == "sparsenet_tf>LocalResponseNormalization"
    clone = keras.saving.deserialize_keras_object(config)
    assert clone.get_config() == layer.get_config()
    assert layer.compute_output_shape((None, 4, 4, 3)) == (None, 4, 4, 3)
    for argument, value in (("radius", -1), ("radius", 1.5), ("bias", 0.0)):
        with pytest.raises(ValueError, match=f"`{argument}`.*{value}"):
            LocalResponseNormalization(**{argument: value})
