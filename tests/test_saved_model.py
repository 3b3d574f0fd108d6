"""What is TensorFlow's own: SavedModels, checkpoints and `tf.data`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import test_radix_conv
import test_radix_dense
import test_retrain
import test_sparse_conv_layer
import test_sparse_dense

from sparsenet_tf.layers import Masked, SparseConv2D, SparseDense

L = keras.layers


def assert_exports(model, folder, *inputs):
    model.export(folder, verbose=False)
    loaded = tf.saved_model.load(str(folder))
    for x in inputs:
        np.testing.assert_allclose(loaded.serve(x), model(x), rtol=1e-5, atol=1e-6)


def test_exports_masked(tmp_path):
    model = keras.Sequential([keras.Input((4,)), Masked(L.Dense(3))])
    model.layers[0].set_masks(np.arange(12).reshape(4, 3) % 2)
    assert_exports(model, tmp_path / "export", np.ones((2, 4), "float32"))


@pytest.mark.parametrize("name", ["tiles", "drop_both"])
def test_exports_radix_dense(name, tmp_path):
    topology = test_radix_dense.TOPOLOGIES[name]
    model = test_radix_dense.two_layers(topology)
    inputs = (test_radix_dense.normal(n, topology.input_size) for n in (1, 5))
    assert_exports(model, tmp_path / "saved", *inputs)


@test_radix_conv.some
def test_exports_radix_conv2d(name, tmp_path):
    model = test_radix_conv.whole_model(name)
    inputs = (test_radix_conv.image(name, n) for n in (1, 5))
    assert_exports(model, tmp_path / "saved", *inputs)


@pytest.mark.parametrize("way", test_sparse_dense.WAYS)
def test_exports_sparse_dense_layer(way, tmp_path):
    layer = SparseDense(test_sparse_dense.MASK, "tanh", implementation=way)
    x = test_sparse_dense.normal(5, 16)
    model = test_sparse_dense.fit(layer, x, test_sparse_dense.normal(5, 9))
    assert_exports(model, tmp_path / "exported", x)


@pytest.mark.parametrize("way", test_sparse_conv_layer.WAYS)
def test_exports_sparse_conv2d(way, tmp_path):
    layer = SparseConv2D(test_sparse_conv_layer.MASK, (3, 2), implementation=way)
    x = test_sparse_conv_layer.normal(5, 8, 7, 4)
    targets = test_sparse_conv_layer.normal(5, 6, 6, 6)
    model = test_sparse_conv_layer.fit(layer, x, targets)
    model.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(exported.serve(x), model(x), rtol=1e-4, atol=1e-5)


def test_checkpoint_restores_masks(tmp_path):
    def build():
        return keras.Sequential([keras.Input((4,)), Masked(L.Dense(3))])

    model, other = build(), build()
    model.layers[0].set_masks(np.arange(12).reshape(4, 3) % 2)
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "ckpt"))
    tf.train.Checkpoint(model=other).restore(path).expect_partial()
    np.testing.assert_array_equal(
        other.layers[0].masks["kernel"], model.layers[0].masks["kernel"]
    )


def test_retraining_on_a_dataset_with_targets_in_it():
    dataset = tf.data.Dataset.from_tensor_slices(test_retrain.data()).batch(8)
    test_retrain.dataset_with_targets_in_it(dataset)
