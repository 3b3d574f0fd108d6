"""What is new in a rebuilt model, what is kept, and what is refused."""

import keras
import numpy as np
import pytest
from backends import assert_allclose, assert_array_equal, several_steps
from keras import layers
from rebuild_models import (
    Net,
    all_values,
    dense,
    equal,
    kernels_of,
    mixed,
    net,
    pruned_masks,
    values,
)

import sparsenet_tf as stf
from sparsenet_tf.layers import tree


@pytest.mark.parametrize("make", [dense, mixed, net])
def test_nothing_of_the_old_weights_is_used(make):
    model = make()
    masks = pruned_masks(model)
    one = stf.rebuild(model, masks, seed=1)
    for weight in model.weights:
        weight.assign(np.full(weight.shape, np.nan))
    other = stf.rebuild(model, masks, seed=1)
    for a, b in zip(all_values(one), all_values(other), strict=True):
        assert np.isfinite(b).all()
        assert_array_equal(a, b)


@pytest.mark.parametrize("make", [dense, mixed, net])
def test_masks_hold_in_the_new_model(make):
    model = make()
    masks = pruned_masks(model)
    new = stf.rebuild(model, masks, seed=1)
    got = stf.get_masks(new)
    assert len(got) == len(masks)
    for mask, wanted in zip(got.values(), masks.values(), strict=True):
        assert_array_equal(mask, wanted)
    for kernel, mask in zip(kernels_of(new).values(), masks.values(), strict=True):
        assert_array_equal(kernel != 0, mask)


def test_masks_hold_in_training():
    model = mixed()
    masks = pruned_masks(model)
    new = stf.rebuild(model, masks, seed=1)
    new.compile(keras.optimizers.AdamW(0.05), "mse", run_eagerly=True)
    before = kernels_of(new)
    x = np.random.default_rng(0).normal(size=(16, 6, 6, 2))
    new.fit(x, np.ones((16, 2)), epochs=2, batch_size=4, verbose=0)
    for path, kernel in kernels_of(new).items():
        assert not kernel[~masks[path]].any()
        assert (kernel != before[path]).any()


@pytest.mark.parametrize("make", [dense, mixed, net])
def test_original_is_untouched(make):
    model = make()
    masks = pruned_masks(model)
    before = [values(weight) for weight in model.weights]
    parts = [(id(layer), type(layer)) for _, layer in tree.walk(model)]
    new = stf.rebuild(model, masks, seed=1, scale_to_fan_in=True)
    assert new is not model
    assert [(id(layer), type(layer)) for _, layer in tree.walk(model)] == parts
    for old, weight in zip(before, model.weights, strict=True):
        assert_array_equal(old, values(weight))
    new_ids = {id(weight) for weight in new.weights}
    assert not new_ids & {id(weight) for weight in model.weights}


def test_architecture_is_the_same():
    model = mixed()
    new = stf.strip(stf.rebuild(model, {}, seed=1))
    assert type(new) is type(model) and new.name == model.name
    assert [x.name for x in new.layers] == [x.name for x in model.layers]
    assert [type(x) for x in new.layers] == [type(x) for x in model.layers]
    assert [x.name for x in new.inputs] == [x.name for x in model.inputs]
    assert len(new.weights) == len(model.weights)
    assert (new.input_shape, new.output_shape) == (model.input_shape, (None, 2))
    new.set_weights(model.get_weights())
    x = np.random.default_rng(0).normal(size=(3, 6, 6, 2)).astype("float32")
    assert_allclose(values(new(x)), values(model(x)), atol=1e-6)


def test_biases_and_statistics_are_fresh():
    model = mixed()
    for weight in model.weights:
        weight.assign(np.full(weight.shape, 7.0))
    new = stf.rebuild(model, {}, seed=1)
    norm = new.get_layer("norm")
    assert not values(norm.moving_mean).any() and not values(norm.beta).any()
    assert (values(norm.moving_variance) == 1).all()
    assert not values(new.get_layer("out").bias).any()


def test_sparsified_model_equals_the_plain_one():
    model = mixed()
    masks = pruned_masks(model)
    sparse = stf.sparsify(model, {"dense/kernel": np.eye(4, 8, dtype=bool)})
    one, other = stf.rebuild(model, masks, 1), stf.rebuild(sparse, masks, 1)
    assert all(equal(one, other))


def test_sparsified_subclassed_model():
    model = net()
    plain = stf.rebuild(model, {}, seed=1)
    sparse = stf.pruning.prune_one_shot(model, 0.5)
    masks = stf.get_masks(sparse)
    new = stf.rebuild(sparse, masks, seed=1)
    assert isinstance(new, Net) and new is not sparse
    for got, mask, full in zip(
        kernels_of(new).values(),
        masks.values(),
        kernels_of(plain).values(),
        strict=True,
    ):
        assert_array_equal(got, np.where(mask, full, 0))


def test_rebuilding_a_rebuilt_model():
    model = dense()
    masks = pruned_masks(model)
    one = stf.rebuild(model, masks, seed=1)
    assert all(equal(stf.rebuild(one, masks, seed=1), one))


def test_kernels_without_a_mask_stay_dense():
    new = stf.rebuild(dense(), {"b/kernel": np.eye(8, dtype=bool)}, seed=1)
    kernels = kernels_of(new)
    assert (kernels["a/kernel"] != 0).all() and (kernels["c/kernel"] != 0).all()
    assert np.count_nonzero(kernels["b/kernel"]) == 8


def test_masks_may_be_numbers():
    new = stf.rebuild(dense(), {"b/kernel": np.eye(8, dtype="int8")}, seed=1)
    assert np.count_nonzero(kernels_of(new)["b/kernel"]) == 8


def test_mask_chooses_among_the_same_draws():
    model = dense()
    full = kernels_of(stf.rebuild(model, {}, seed=1))
    masks = pruned_masks(model)
    sparse = kernels_of(stf.rebuild(model, masks, seed=1))
    for path, mask in masks.items():
        assert_array_equal(sparse[path], np.where(mask, full[path], 0))


def test_frozen_layers_stay_frozen():
    model = mixed()
    model.get_layer("conv").trainable = False
    model.get_layer("inner").get_layer("one").trainable = False
    new = stf.rebuild(model, {}, seed=1)
    assert new.get_layer("conv").trainable_weights == []
    assert new.get_layer("inner").get_layer("one").trainable_weights == []
    assert len(new.trainable_weights) == len(model.trainable_weights)


def test_subclassed_model_keeps_its_config():
    new = stf.rebuild(net(units=7), {}, seed=1)
    assert isinstance(new, Net) and new.units == 7
    assert new(np.ones((2, 6), "float32")).shape == (2, 7)


def test_subclassed_model_that_makes_its_layers_in_build():
    class Late(keras.Model):
        def build(self, shape):
            self.dense = layers.Dense(3)
            self.dense.build(shape)
            self.built = True

        def call(self, x):
            return self.dense(x)

        def get_config(self):
            return {}

        @classmethod
        def from_config(cls, config):
            return cls()

    model = Late()
    model(np.ones((2, 6), "float32"))
    one, again, other = (stf.rebuild(model, {}, s) for s in (1, 1, 2))
    assert equal(one, again) == [True] and equal(one, other) == [False]


def subclassed_inside_functional():
    x = keras.Input((6,))
    return keras.Model(x, layers.Dense(2, name="out")(Net(name="body")(x)))


def users_layer_with_automatic_names():
    class Own(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = layers.Dense(6)

        def build(self, shape):
            self.dense.build(shape)
            self.built = True

        def call(self, x):
            return self.dense(x)

    return keras.Sequential([keras.Input((6,)), Own(name="own")])


@pytest.mark.parametrize(
    "make", [subclassed_inside_functional, users_layer_with_automatic_names]
)
def test_masks_of_a_pruned_copy_with_automatic_names(make):
    model = make()
    masks = stf.get_masks(stf.pruning.prune_one_shot(model, 0.5))
    assert list(masks) == list(tree.kernels(model))
    new = stf.rebuild(model, masks, seed=1)
    for kernel, mask in zip(kernels_of(new).values(), masks.values(), strict=True):
        assert_array_equal(kernel != 0, mask)


@pytest.mark.parametrize(
    "make", [subclassed_inside_functional, users_layer_with_automatic_names]
)
@pytest.mark.parametrize(
    "use",
    [stf.sparsify, lambda model, masks: stf.rebuild(model, masks, seed=1)],
    ids=["sparsify", "rebuild"],
)
def test_no_mask_is_lost_where_names_are_automatic(make, use):
    model = make()
    masks = {p: np.eye(*k.shape, dtype=bool) for p, k in tree.kernels(model).items()}
    got = stf.get_masks(use(model, masks)).values()
    for mask, wanted in zip(got, masks.values(), strict=True):
        assert_array_equal(mask, wanted)


def test_subclassed_model_inside_a_functional_one():
    model = subclassed_inside_functional()
    rng = np.random.default_rng(0)
    masks = {p: rng.random(k.shape) < 0.5 for p, k in tree.kernels(model).items()}
    one, again, other = (stf.rebuild(model, masks, s) for s in (1, 1, 2))
    assert all(equal(one, again)) and not any(equal(one, other))
    got = stf.get_masks(one)
    for mask, wanted in zip(got.values(), masks.values(), strict=True):
        assert_array_equal(mask, wanted)


# --- Compiled state ------------------------------------------------------------------


@pytest.mark.parametrize("make", [dense, net])
def test_compiled_as_before_with_a_fresh_optimizer(make):
    model = make()
    model.compile(
        keras.optimizers.Adam(0.5),
        "mae",
        metrics=["mse"],
        steps_per_execution=several_steps(3),
    )
    model.optimizer.learning_rate = 0.0125
    x, y = np.ones((6, 6)), np.ones((6, 3 if make is dense else 5))
    model.fit(x, y, verbose=0)
    new = stf.rebuild(model, {}, seed=1)
    assert new.compiled and new.optimizer is not model.optimizer
    assert isinstance(new.optimizer, keras.optimizers.Adam)
    assert float(new.optimizer.learning_rate) == pytest.approx(0.0125)
    assert int(new.optimizer.iterations) == 0
    assert (new.loss, new.steps_per_execution) == ("mae", several_steps(3))
    assert "mse" in new.evaluate(x, y, verbose=0, return_dict=True)
    assert int(model.optimizer.iterations) == 1


def own_loss(y, prediction):
    return keras.ops.mean(keras.ops.abs(y - prediction), axis=-1)


@pytest.mark.parametrize("make", [dense, net])
def test_compiled_with_the_users_own_loss_and_metric(make):
    model = make()
    model.compile("sgd", own_loss, metrics=[own_loss])
    new = stf.rebuild(model, {}, seed=1)
    assert new.compiled
    y = np.ones((6, 3 if make is dense else 5))
    results = new.evaluate(np.ones((6, 6)), y, verbose=0, return_dict=True)
    assert results["loss"] == pytest.approx(results["own_loss"])


def test_not_compiled_stays_so():
    assert not stf.rebuild(dense(), {}, seed=1).compiled


# --- Errors --------------------------------------------------------------------------


def test_model_that_is_not_built():
    model = keras.Sequential([layers.Dense(3)], name="later")
    with pytest.raises(ValueError, match="`model` must be built.*'later'"):
        stf.rebuild(model, {}, seed=1)


def test_something_else_than_a_model():
    with pytest.raises(TypeError, match="`model` must be a keras.Model"):
        stf.rebuild(layers.Dense(3), {}, seed=1)


@pytest.mark.parametrize("seed", [-1, -(2**40)])
def test_negative_seed(seed):
    with pytest.raises(ValueError, match=f"`seed` must be 0 or more.*{seed}"):
        stf.rebuild(dense(), {}, seed=seed)


@pytest.mark.parametrize("seed", [None, 1.0, "1", True])
def test_seed_that_is_no_integer(seed):
    with pytest.raises(TypeError, match="`seed` must be an integer"):
        stf.rebuild(dense(), {}, seed=seed)


@pytest.mark.parametrize("masks", [None, [], np.ones((6, 8), bool)])
def test_masks_that_are_no_dict(masks):
    with pytest.raises(TypeError, match="`masks` must be a dict"):
        stf.rebuild(dense(), masks, seed=1)


@pytest.mark.parametrize("path", ["d/kernel", "a", "kernel", "a/bias", ""])
def test_unknown_path(path):
    with pytest.raises(ValueError, match="`masks` must name kernels of model 'net'"):
        stf.rebuild(dense(), {path: np.ones((6, 8), bool)}, seed=1)


@pytest.mark.parametrize(
    "mask, message",
    [
        (np.ones((8, 6), bool), r"must have shape \(6, 8\)"),
        (np.ones(48, bool), r"must have shape \(6, 8\)"),
        (np.full((6, 8), 2), "only 0 and 1"),
        (np.full((6, 8), "x"), "dtype"),
    ],
)
def test_mask_that_does_not_fit(mask, message):
    with pytest.raises(ValueError, match=f"`mask` of kernel 'a/kernel'.*{message}"):
        stf.rebuild(dense(), {"a/kernel": mask}, seed=1)


def test_subclassed_model_without_a_config():
    class Silent(keras.Model):
        def __init__(self, layer):
            super().__init__(name="silent")
            self.layer = layer

        def call(self, x):
            return self.layer(x)

    model = Silent(layers.Dense(3))
    model.get_config = lambda: {}
    model(np.ones((1, 2), "float32"))
    with pytest.raises(ValueError, match="`model` must rebuild itself.*Silent"):
        stf.rebuild(model, {}, seed=1)
