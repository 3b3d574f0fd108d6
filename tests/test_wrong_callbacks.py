"""What a newcomer may do wrong with callbacks, and what to do instead."""

import gc

import keras
import numpy as np
import pytest

import sparsenet_tf as stf
from sparsenet_tf.pruning import (
    NM,
    SET,
    Blocks,
    ConstantSparsity,
    CosineDecay,
    Gradient,
    Movement,
    PolynomialDecay,
    PruningCallback,
    Random,
    SynFlow,
    Units,
    Wanda,
    prune_one_shot,
)

L = keras.layers
X = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
ONCE = ConstantSparsity(0.5, 2)


def _plain():
    return keras.Sequential(
        [keras.Input((6,)), L.Dense(20, name="a"), L.Dense(5, name="b")]
    )


def _compiled(model):
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def _fit(model, *callbacks):
    model.fit(X, X[:, :5], batch_size=8, verbose=0, callbacks=list(callbacks))


@pytest.mark.parametrize(
    "thing, place",
    [
        (ONCE, r"PruningCallback\(schedule\)"),
        (PolynomialDecay(0, 0.5, 0, 1), r"PruningCallback\(schedule\)"),
        (CosineDecay(0.5, 10), r"SET\(schedule\)"),
        (NM(2, 4), "structure=structure"),
        (Blocks((2, 2)), "structure=structure"),
        (Units(), "structure=structure"),
        (Random(0), r"schedule, criterion\)"),
        (Movement(), r"schedule, criterion\)"),
        (Gradient(X, X[:, :5]), r"schedule, criterion\)"),
        (SynFlow(), r"schedule, criterion\)"),
        (Wanda(X), r"schedule, criterion\)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_callback_in_callbacks(thing, place):
    message = f"Keras callbacks.*a {type(thing).__name__}; pass it to one.*{place}"
    with pytest.raises(TypeError, match=message):
        _fit(_compiled(stf.sparsify(_plain())), thing)


def test_the_result_of_sparsify_is_not_used():
    model = _plain()
    stf.sparsify(model)
    with pytest.raises(ValueError, match=r"`model = stf\.sparsify.*returns a new mod"):
        _fit(_compiled(model), PruningCallback(ONCE))


def test_sparse_layers_have_no_masks_and_to_dense_gives_them_back():
    sparse = stf.to_sparse(prune_one_shot(_compiled(_plain()), 0.5), layers="all")
    pruning = PruningCallback(ConstantSparsity(0.75, 2))
    with pytest.raises(ValueError, match=r"`model = stf\.to_dense\(model\)` gives"):
        _fit(_compiled(sparse), pruning)
    _fit(_compiled(stf.to_dense(sparse)), pruning)
    assert pruning.sparsity == 0.75


def test_an_unbuilt_model_is_to_be_built_first():
    model = stf.sparsify(keras.Sequential([L.Dense(20), L.Dense(5)]))
    pruning = PruningCallback(ONCE)
    if keras.backend.backend() == "tensorflow":  # others build it before
        with pytest.raises(ValueError, match=r"not built.*`model\.build\(input_shape"):
            _fit(_compiled(model), pruning)
        model.build((None, 6))
    _fit(_compiled(model), pruning)
    assert [mask.sum() for mask in stf.get_masks(model).values()] == [60, 50]
    assert pruning.sparsity == 0.5


@pytest.mark.parametrize(
    "other", [lambda: PruningCallback(ONCE), lambda: SET(CosineDecay(0.5, 20))]
)
def test_two_callbacks_on_the_same_kernels(other):
    model = _compiled(prune_one_shot(_plain(), 0.25))
    pruning = PruningCallback(ConstantSparsity(0.5, 100))
    with pytest.raises(ValueError, match="one callback that.*'a/kernel'.*`exclude`"):
        _fit(model, pruning, other())
    with pytest.raises(ValueError, match="one callback that.*'a/kernel'.*`exclude`"):
        _fit(model, other(), pruning)


def test_two_callbacks_of_two_fits_or_of_other_kernels():
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    model = _compiled(stf.sparsify(_plain()))
    interrupted = PruningCallback(ConstantSparsity(0.25, 0))
    with pytest.raises(KeyboardInterrupt):
        _fit(model, interrupted, Interrupt())
    _fit(model, PruningCallback(ONCE))
    _fit(model, PruningCallback(ConstantSparsity(0.6, 0)))
    _fit(
        model,
        PruningCallback(ConstantSparsity(0.7, 0), exclude="a"),
        PruningCallback(ConstantSparsity(0.8, 0), exclude="b"),
    )
    masks = stf.get_masks(model)
    assert [masks["a/kernel"].sum(), masks["b/kernel"].sum()] == [24, 30]
    gc.collect()
    _fit(model, PruningCallback(ConstantSparsity(0.9, 0)))
