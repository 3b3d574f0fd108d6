"""What `prune_one_shot` leaves when it fails; what it prunes is in test_criteria."""

import keras
import numpy as np
import pytest
from wrong_calls import make_dense, make_masked, make_subclassed

from sparsenet_tf.layers.mask_values import to_numpy
from sparsenet_tf.pruning import prune_one_shot


class FailsInRound:
    """Magnitude, until a round in which the scores are NaN."""

    def __init__(self, rounds, fails):
        self.rounds, self.fails, self.calls = rounds, fails, 0

    def scores(self, model, kernels):
        self.calls += 1
        factor = np.nan if self.calls == self.fails else 1.0
        return {p: np.abs(m.kernel_value()) * factor for p, m in kernels.items()}


def weights(model):
    return [to_numpy(variable).copy() for variable in model.variables]


@pytest.mark.parametrize("make", [make_dense, make_masked, make_subclassed])
@pytest.mark.parametrize("fails", [1, 3])
def test_a_failure_in_any_round_changes_nothing(make, fails):
    model = make()
    layers, kernel, before = model.layers, model.layers[0].kernel, weights(model)
    optimizer, constraint = model.optimizer, type(kernel.constraint)
    with pytest.raises(ValueError, match="`criterion`"):
        prune_one_shot(model, 0.9, FailsInRound(3, fails))
    assert model.layers == layers and model.layers[0].kernel is kernel
    assert model.optimizer is optimizer and type(kernel.constraint) is constraint
    for old, new in zip(before, weights(model), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_model_that_failed_can_be_trained_and_pruned():
    model = make_subclassed()
    with pytest.raises(ValueError, match="`criterion`"):
        prune_one_shot(model, 0.5, FailsInRound(1, 1))
    x, y = np.ones((8, 4), "float32"), np.ones((8, 3), "float32")
    model.fit(x, y, verbose=0)
    assert prune_one_shot(model, 0.5, FailsInRound(2, 3)) is model
    model.fit(x, y, verbose=0)
    for layer, size in ((model.hidden, 20), (model.out, 15)):
        [mask] = layer.masks.values()
        assert np.count_nonzero(~mask) == round(0.5 * size)
        assert not np.any(to_numpy(layer.kernel)[~mask])


def test_nested_models_of_a_subclassed_one_are_themselves_again():
    class Nested(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = keras.Sequential(
                [keras.Input((4,)), keras.layers.Dense(3, name="in")]
            )
            self.built = True

        def call(self, x):
            return self.inner(x)

    model = Nested()
    x = np.ones((2, 4), "float32")
    before = to_numpy(model(x))
    with pytest.raises(ValueError, match="`criterion`"):
        prune_one_shot(model, 0.5, FailsInRound(1, 1))
    assert type(model.inner.layers[0]) is keras.layers.Dense
    np.testing.assert_array_equal(to_numpy(model(x)), before)
