"""The paper's networks, compared with TensorFlow's own operations."""

import numpy as np
import pytest
import tensorflow as tf
from test_models import BUILDERS, SETTINGS, images, kernel_layers

from sparsenet_tf.experiments import models
from sparsenet_tf.experiments.lrn import LocalResponseNormalization


@pytest.mark.parametrize("build", BUILDERS)
def test_weight_decay_is_tensorflows_l2_loss_of_the_dense_kernels(build):
    model = build(weight_decay=0.004, seed=0)
    dense = [name for name in kernel_layers(model) if not name.startswith("conv")]
    kernels = [model.get_layer(name).kernel.value for name in dense]
    expected = 0.004 * sum(tf.nn.l2_loss(kernel) for kernel in kernels)
    assert len(model.losses) == len(dense)
    np.testing.assert_allclose(sum(model.losses), expected, rtol=1e-5)


def test_the_authors_lenet_5_equals_its_formula():
    model = models.lenet_5(**models.PAPER_LENET_5, seed=0)
    x = images(model)
    w = {
        name: [value.value for value in model.get_layer(name).weights]
        for name in kernel_layers(model)
    }

    def conv(x, name):
        return tf.nn.relu(tf.nn.conv2d(x, w[name][0], 1, "SAME") + w[name][1])

    def lrn(x):
        return tf.nn.local_response_normalization(x, 4, 1.0, 0.001 / 9, 0.75)

    y = lrn(tf.nn.max_pool2d(conv(x, "conv1"), 2, 2, "SAME"))
    y = tf.nn.max_pool2d(lrn(conv(y, "conv2")), 2, 2, "SAME")
    y = tf.reshape(y, (len(x), 2450))
    for name in ("dense1", "logits"):
        y = tf.nn.relu(y @ w[name][0] + w[name][1])
    np.testing.assert_allclose(model(x), y, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("build, settings", SETTINGS)
def test_a_seeded_model_leaves_tensorflows_random_numbers_alone(build, settings):
    tf.random.set_seed(5)
    expected = tf.random.uniform(())
    tf.random.set_seed(5)
    build(**settings, seed=3)
    assert tf.random.uniform(()) == expected


@pytest.mark.parametrize("channels", [1, 4, 20])
@pytest.mark.parametrize("radius", [0, 2, 4, 30])
def test_normalization_equals_tensorflows(channels, radius):
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(2, 3, 5, channels)) * 3, "float32")
    layer = LocalResponseNormalization(radius, bias=2.0, alpha=0.3, beta=0.6)

    def reference(x):
        return tf.nn.local_response_normalization(x, radius, 2.0, 0.3, 0.6)

    results = []
    for function in (layer, reference):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
            loss = tf.reduce_sum(y**2 + y)
        results.append((y, tape.gradient(loss, x)))
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
