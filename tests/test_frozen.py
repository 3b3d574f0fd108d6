"""Frozen kernels are left alone by everything that changes masks, with a word."""

import warnings

import keras
import numpy as np
import pytest
from backends import values

import sparsenet_tf as stf
from sparsenet_tf.pruning import (
    SET,
    ConstantSparsity,
    CosineDecay,
    PruningCallback,
    Random,
    RigL,
    prune_one_shot,
)
from sparsenet_tf.pruning.connections import find_connections

L = keras.layers
X = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
MESSAGE = r"\['frozen/kernel'\] have trainable=False.*`layer.trainable = True`"


def _model(masked=True, freeze=True):
    model = keras.Sequential(
        [keras.Input((6,)), L.Dense(20, name="frozen"), L.Dense(5, name="free")]
    )
    if masked:
        model = stf.sparsify(model)
    model.get_layer("frozen").trainable = not freeze
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def _fit(model, *callbacks):
    model.fit(X, X[:, :5], batch_size=8, verbose=0, callbacks=list(callbacks))


def _patterns(model):
    return {
        path: connections.positions()
        for path, connections in find_connections(model).items()
    }


def _zeros(model):
    return {
        path: np.count_nonzero(values(kernel) == 0)
        for path, kernel in stf.layers.tree.kernels(model).items()
    }


@pytest.mark.parametrize("scope", ["layer", "global", "erk"])
def test_the_callback_prunes_the_others_alone(scope):
    model = _model()
    pruning = PruningCallback(ConstantSparsity(0.5, 2), scope=scope)
    with pytest.warns(UserWarning, match=MESSAGE) as caught:
        _fit(model, pruning)
    assert len([w for w in caught if w.category is UserWarning]) == 1
    assert _zeros(model) == {"frozen/kernel": 0, "free/kernel": 50}
    assert pruning.sparsity == 0.5 and list(pruning.updates[2]) == ["free/kernel"]


@pytest.mark.parametrize("scope", ["layer", "global", "erk"])
@pytest.mark.parametrize("masked", [True, False])
def test_one_shot_prunes_the_others_alone(scope, masked):
    model = _model(masked)
    frozen = values(model.get_layer("frozen").kernel)
    with pytest.warns(UserWarning, match=MESSAGE) as caught:
        pruned = prune_one_shot(model, 0.5, scope=scope)
    assert len([w for w in caught if w.category is UserWarning]) == 1
    assert _zeros(pruned) == {"frozen/kernel": 0, "free/kernel": 50}
    np.testing.assert_array_equal(values(pruned.get_layer("frozen").kernel), frozen)
    assert not pruned.get_layer("frozen").kernel.trainable


@pytest.mark.parametrize("method", ["SET", "RigL"])
@pytest.mark.parametrize("sparse", [False, True])
def test_dynamic_training_moves_the_others_alone(method, sparse):
    model = prune_one_shot(_model(freeze=False), 0.5, Random(seed=0))
    if sparse:
        model = stf.to_sparse(model, layers="all")
    before = _patterns(model)
    model.get_layer("frozen").trainable = False
    model.compile(keras.optimizers.Adam(0.01), "mse")
    schedule = CosineDecay(0.5, 30, frequency=2)
    method = SET(schedule) if method == "SET" else RigL(schedule, X, X[:, :5])
    with pytest.warns(UserWarning, match=MESSAGE):
        _fit(model, method)
    model.get_layer("frozen").trainable = True
    after = _patterns(model)
    np.testing.assert_array_equal(before["frozen/kernel"], after["frozen/kernel"])
    assert set(before["free/kernel"]) != set(after["free/kernel"])
    assert list(method.connections) == ["free/kernel"]


def test_excluded_frozen_kernels_need_no_warning():
    _fit(_model(), PruningCallback(ConstantSparsity(0.5, 2), exclude="frozen"))
    prune_one_shot(_model(False), 0.5, exclude="frozen")


def test_all_frozen_is_an_error_before_any_change():
    model = _model()
    model.trainable = False
    model.compile("sgd", "mse")
    for call in (
        lambda: prune_one_shot(model, 0.5),
        lambda: _fit(model, PruningCallback(ConstantSparsity(0.5, 0))),
        lambda: _fit(model, SET(CosineDecay(0.5, 30))),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras: there is nothing to train
            with pytest.raises(ValueError, match="not frozen.*'frozen/kernel'.*prune"):
                call()
    assert set(_zeros(model).values()) == {0}


def test_pruned_on_purpose_and_frozen_again_it_keeps_its_zeros():
    model = prune_one_shot(_model(freeze=False), 0.5)
    model.get_layer("frozen").trainable = False
    model.compile(keras.optimizers.Adam(0.01), "mse")
    frozen = values(model.get_layer("frozen").kernel)
    _fit(model)
    with pytest.warns(UserWarning, match=MESSAGE):
        _fit(model, PruningCallback(ConstantSparsity(0.8, 2)))
    np.testing.assert_array_equal(values(model.get_layer("frozen").kernel), frozen)
    assert _zeros(model) == {"frozen/kernel": 60, "free/kernel": 80}


def test_a_kernel_that_lora_holds_still_is_pruned():
    model = _model(freeze=False)
    layer = model.get_layer("frozen").layer
    layer.enable_lora(2)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    _fit(model, PruningCallback(ConstantSparsity(0.5, 2)))
    assert stf.get_masks(model)["free/kernel"].sum() == 50
    mask = stf.get_masks(model)["frozen/kernel"]
    assert mask.sum() == mask.size / 2
    assert values(layer.lora_kernel_b).any()
    merged = values(stf.strip(model).get_layer("frozen").kernel)
    assert not merged[~mask].any() and merged[mask].all()
