"""Keras' own ways to train and to average, with a `PruningCallback`."""

import keras
import numpy as np
import pytest
from backends import values

import sparsenet_tf as stf
from sparsenet_tf.pruning import ConstantSparsity, PolynomialDecay, PruningCallback

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 6)).astype("float32")
Y = RNG.integers(0, 5, 80)


def _network(width, name):
    return keras.Sequential(
        [keras.Input((6,)), L.Dense(width, "relu", name="a"), L.Dense(5, name="b")],
        name=name,
    )


def _assert_zero_where_masked(model, sparsity):
    kernels = stf.layers.tree.kernels(model)
    for path, mask in stf.get_masks(model).items():
        assert mask.sum() == round((1 - sparsity) * mask.size)
        assert np.count_nonzero(values(kernels[path])[~mask]) == 0


class ZerosSeen(keras.callbacks.Callback):
    """Looks at the model in the middle of epochs, at their ends and in evaluations."""

    def __init__(self, begin, sparsity):
        super().__init__()
        self.begin, self.sparsity, self.looks = begin, sparsity, 0

    def look(self, *args, **kwargs):
        if int(self.model.optimizer.iterations) >= self.begin:
            _assert_zero_where_masked(self.model, self.sparsity)
            self.looks += 1

    on_train_batch_end = on_test_begin = on_test_end = on_epoch_begin = look
    on_epoch_end = look


@pytest.mark.parametrize("swap_on_epoch", [False, True])
@pytest.mark.parametrize("pruning_first", [False, True])
def test_swapped_averages_keep_zeros(swap_on_epoch, pruning_first):
    model = stf.sparsify(_network(20, "m"))
    optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=swap_on_epoch)
    pruning = PruningCallback(ConstantSparsity(0.5, 12))
    seen = ZerosSeen(12, 0.5)
    callbacks = [pruning, swap] if pruning_first else [swap, pruning]
    model.fit(
        X, Y, batch_size=8, epochs=4, verbose=0, callbacks=[*callbacks, seen],
        validation_data=(X, Y),
    )  # fmt: skip
    assert seen.looks > 30
    _assert_zero_where_masked(model, 0.5)
    assert pruning.sparsity == 0.5


def test_a_distilled_student_is_pruned():
    teacher, student = _network(30, "teacher"), stf.sparsify(_network(20, "student"))
    before = [values(w) for w in teacher.weights]
    distiller = keras.distillation.Distiller(
        teacher,
        student,
        distillation_losses=keras.distillation.LogitsDistillation(),
        student_loss_weight=0.5,
    )
    distiller.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    pruning = PruningCallback(PolynomialDecay(0.0, 0.5, 2, 15, frequency=3))
    history = distiller.fit(
        X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[pruning]
    )
    assert list(pruning.updates) == [2, 5, 8, 11, 14, 15]
    assert history.history["sparsity"][-1] == 0.5
    _assert_zero_where_masked(student, 0.5)
    for one, other in zip(before, teacher.weights, strict=True):
        np.testing.assert_array_equal(one, values(other))
    plain = stf.strip(student)
    np.testing.assert_allclose(
        plain.predict(X, verbose=0), student.predict(X, verbose=0)
    )


def test_a_sparse_teacher_is_frozen_and_stays_as_it_is():
    teacher = stf.pruning.prune_one_shot(_network(30, "teacher"), 0.25)
    student = stf.sparsify(_network(20, "student"))
    distiller = keras.distillation.Distiller(
        teacher, student, keras.distillation.LogitsDistillation()
    )
    distiller.compile(
        "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    pruning = PruningCallback(ConstantSparsity(0.5, 2))
    with pytest.warns(UserWarning, match="Frozen kernels are not pruned"):
        distiller.fit(X, Y, batch_size=8, verbose=0, callbacks=[pruning])
    _assert_zero_where_masked(teacher, 0.25)
    _assert_zero_where_masked(student, 0.5)
