"""`rebuild(scale_to_fan_in=True)`: initial values as for the connections left."""

import keras
import numpy as np
import pytest
from backends import assert_allclose, assert_array_equal
from keras import layers
from rebuild_models import dense, kernels_of, net, pruned_masks, values

import sparsenet_tf as stf
from sparsenet_tf.layers import tree


def scales(model, masks):
    """`{path: scaled / unscaled}` of the kept weights, NaN where pruned."""
    plain = kernels_of(stf.rebuild(model, masks, seed=1)).values()
    scaled = kernels_of(stf.rebuild(model, masks, seed=1, scale_to_fan_in=True))
    with np.errstate(invalid="ignore"):
        ratios = [a / b for a, b in zip(scaled.values(), plain, strict=True)]
    return dict(zip(tree.kernels(model), ratios, strict=True))


def assert_scales(got, mask, expected):
    expected = np.where(mask, np.broadcast_to(expected, mask.shape), np.nan)
    assert_allclose(got, expected, rtol=1e-5)


def test_scale_of_dense_by_hand():
    mask = np.zeros((4, 3), bool)
    mask[:1, 0] = mask[:2, 1] = mask[:, 2] = True
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a")])
    got = scales(model, {"a/kernel": mask})["a/kernel"]
    assert_scales(got, mask, [2.0, np.sqrt(2), 1.0])


def test_an_output_without_any_connection_stays_zero():
    mask = np.ones((4, 3), bool)
    mask[:, 1] = False
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a")])
    new = stf.rebuild(model, {"a/kernel": mask}, 1, scale_to_fan_in=True)
    kernel = kernels_of(new)["a/kernel"]
    assert np.isfinite(kernel).all() and not kernel[:, 1].any()


def spatial_model():
    return keras.Sequential(
        [
            keras.Input((9, 9, 4)),
            layers.Conv2D(5, 3, name="conv"),
            layers.DepthwiseConv2D(2, depth_multiplier=3, name="depth"),
            layers.Conv2DTranspose(2, 3, name="up"),
            layers.EinsumDense("abcd,def->abcef", (None, None, 3, 2), name="einsum"),
        ]
    )


def test_scale_of_every_kind_of_kernel():
    model = spatial_model()
    rng = np.random.default_rng(0)
    masks = {p: rng.random(k.shape) < 0.6 for p, k in tree.kernels(model).items()}
    got = scales(model, masks)
    summed = {
        "conv/kernel": (0, 1, 2),
        "depth/kernel": (0, 1),
        "up/kernel": (0, 1, 3),
        "einsum/kernel": (0,),
    }
    for path, axes in summed.items():
        mask = masks[path]
        fan_in = np.prod([mask.shape[axis] for axis in axes])
        kept = np.maximum(1, mask.sum(axis=axes, keepdims=True))
        assert_scales(got[path], mask, np.sqrt(fan_in / kept))


def test_pre_activations_have_the_variance_of_the_dense_network():
    model = keras.Sequential(
        [
            keras.Input((1000,)),
            layers.Dense(300, name="a", kernel_initializer="he_normal"),
        ]
    )
    rng = np.random.default_rng(0)
    masks = {"a/kernel": rng.random((1000, 300)) < 0.1}
    x = rng.normal(size=(200, 1000)).astype("float32")
    plain = values(stf.rebuild(model, masks, 1)(x)).std()
    scaled = values(stf.rebuild(model, masks, 1, scale_to_fan_in=True)(x)).std()
    assert scaled == pytest.approx(np.sqrt(2), rel=0.05)
    assert plain == pytest.approx(np.sqrt(0.2), rel=0.05)


def test_scale_of_an_embedding_is_one():
    model = keras.Sequential(
        [keras.Input((3,), dtype="int32"), layers.Embedding(6, 4, name="e")]
    )
    mask = np.random.default_rng(0).random((6, 4)) < 0.5
    assert_scales(
        scales(model, {"e/embeddings": mask})["e/embeddings"], mask, np.ones(4)
    )


def test_scale_of_a_full_mask_is_one():
    model = dense()
    for path, got in scales(model, {}).items():
        assert_array_equal(got, np.ones_like(got), err_msg=path)


def test_scale_in_a_subclassed_model():
    model = net()
    masks = pruned_masks(model)
    got = scales(model, masks)
    for path, mask in masks.items():
        kept = np.maximum(1, mask.sum(axis=0))
        assert_scales(got[path], mask, np.sqrt(mask.shape[0] / kept))
