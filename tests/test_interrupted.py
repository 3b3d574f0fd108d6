"""Ctrl-C in training: the model stays usable, and the next `fit` goes on."""

import keras
import numpy as np
import pytest
from backends import assert_array_equal, values

import sparsenet_tf as stf
from sparsenet_tf.layers.masked import masked_kernels
from sparsenet_tf.pruning import SET, CosineDecay, PolynomialDecay, PruningCallback

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 6)).astype("float32")
Y = RNG.normal(size=(96, 4)).astype("float32")
BATCH = 8


class CtrlC(keras.callbacks.Callback):
    """What a Ctrl-C after a batch does."""

    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.batch:
            raise KeyboardInterrupt


def network():
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(10, "relu", name="first"),  # seeds go by names
            keras.layers.Dense(4, name="second"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    return stf.sparsify(model)


def pruning():
    return PruningCallback(PolynomialDecay(0.2, 0.8, 0, 11, frequency=2))


def exchange():
    return SET(CosineDecay(0.5, end_step=12, frequency=2))


def fit(model, *callbacks, first=0):
    rows = slice(first * BATCH, None)
    model.fit(
        X[rows],
        Y[rows],
        batch_size=BATCH,
        shuffle=False,
        callbacks=list(callbacks),
        verbose=0,
    )


@pytest.mark.parametrize("batch", [0, 1, 5])
@pytest.mark.parametrize("make", [pruning, exchange])
@pytest.mark.often("pruning-1", "exchange-5")
def test_the_next_fit_goes_on_where_it_was(make, batch):
    def begun():
        model = network()
        if make is exchange:
            stf.pruning.prune_one_shot(model, 0.6)
        return model

    whole = begun()
    fit(whole, make())

    model, callback = begun(), make()
    with pytest.raises(KeyboardInterrupt):
        fit(model, callback, CtrlC(batch))
    assert int(values(model.optimizer.iterations)) == batch + 1  # says where it is
    fit(model, callback, first=batch + 1)
    for ours, expected in zip(model.variables, whole.variables, strict=True):
        assert_array_equal(ours, expected)


@pytest.mark.parametrize("make", [pruning, exchange])
def test_masked_weights_stay_zero_under_another_optimizer(make):
    model = network()
    stf.pruning.prune_one_shot(model, 0.6)
    with pytest.raises(KeyboardInterrupt):
        fit(model, make(), CtrlC(3))
    # Whose update of a weight without gradients is not zero.
    model.compile(keras.optimizers.Ftrl(0.1, initial_accumulator_value=0.1), "mse")
    for masked in masked_kernels(model).values():
        assert masked.kernel.constraint is not None
    fit(model)
    for masked in masked_kernels(model).values():
        assert not values(masked.kernel)[~masked.mask_value()].any()


def test_the_model_can_be_saved_and_pruned_after_it(tmp_path):
    model = network()
    with pytest.raises(KeyboardInterrupt):
        fit(model, pruning(), CtrlC(4))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    fit(again, pruning(), first=5)
    fit(model, pruning(), first=5)
    for ours, expected in zip(again.variables, model.variables, strict=True):
        assert_array_equal(ours, expected)
    assert stf.summary(stf.pruning.prune_one_shot(model, 0.9), print_fn=None)


def test_a_masked_weight_has_no_sign():
    model = network()
    fit(model, PruningCallback(PolynomialDecay(0.0, 0.9, 0, 11, frequency=1)))
    for masked in masked_kernels(model).values():
        assert not np.signbit(values(masked.kernel)[~masked.mask_value()]).any()
