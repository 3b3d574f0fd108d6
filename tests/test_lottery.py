"""Lottery tickets: prune by magnitude, rewind, repeat."""

import keras
import numpy as np
import pytest
from backends import BACKEND, assert_array_equal, values

import sparsenet_tf as stf
from sparsenet_tf.layers.masked import masked_kernels
from sparsenet_tf.training import lottery_ticket


def four_weights():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(1, use_bias=False, name="line")]
    )
    model.set_weights([np.array([[1.0], [2.0], [3.0], [4.0]], "float32")])
    model.compile("sgd", "mse")
    return model


def network(optimizer="sgd"):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(12, activation="relu", name="first"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(3, name="second"),
        ]
    )
    model.compile(optimizer, "mse")
    return model


RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 8)).astype("float32")
Y = RNG.normal(size=(64, 3)).astype("float32")


def train(model, callbacks, epochs=1):
    return model.fit(
        X,
        Y,
        batch_size=16,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )


def plain_state(model):
    """All variables but masks, and the optimizer's."""
    masks = {id(m.mask) for m in masked_kernels(model).values()}
    own = [values(v).copy() for v in model.variables if id(v) not in masks]
    return own, [values(v).copy() for v in model.optimizer.variables]


def test_two_rounds_by_hand():
    trained = np.array([[4.0], [1.0], [3.0], [2.0]], "float32")
    seen = []

    def to_known_weights(model, callbacks):
        [masked] = masked_kernels(model).values()
        seen.append(values(masked.kernel)[:, 0].tolist())
        masked.kernel.assign(trained * masked.mask_value())
        return len(seen)

    ticket = lottery_ticket(four_weights(), to_known_weights, 0.75, rounds=2)
    # Half of the weights are left after the first round: of 4, 1, 3, 2 the first and
    # the third. They begin again at 1 and 3, and of 4 and 3 the first one is left.
    assert seen == [[1, 2, 3, 4], [1, 0, 3, 0]]
    assert ticket.outcomes == (1, 2)
    assert ticket.sparsities == (0.5, 0.75)
    assert ticket.masks["line/kernel"][:, 0].tolist() == [True, False, False, False]
    assert values(ticket.model.layers[0].kernel)[:, 0].tolist() == [1, 0, 0, 0]


def test_other_masks_have_the_early_weights():
    ticket = lottery_ticket(four_weights(), train_line, 0.5, rounds=1)
    other = ticket.on({"line/kernel": np.array([[0], [1], [0], [1]])})
    assert values(other.layers[0].kernel)[:, 0].tolist() == [0, 2, 0, 4]
    assert ticket.model is not other
    assert other.compiled


def train_line(model, callbacks):
    x = np.ones((4, 4), "float32")
    model.fit(x, x[:, :1], verbose=0, callbacks=callbacks)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("rewind_step", [0, 3])
def test_a_ticket_is_the_dense_network_at_the_early_step(optimizer, rewind_step):
    model = network(optimizer)
    ticket = lottery_ticket(model, train, 0.8, rounds=3, rewind_step=rewind_step)

    dense = stf.sparsify(model)
    if rewind_step:
        part = slice(16 * rewind_step)
        dense.fit(X[part], Y[part], batch_size=16, shuffle=False, verbose=0)
    else:
        dense.optimizer.build(dense.trainable_variables)
    expected = {p: values(m.kernel) for p, m in masked_kernels(dense).items()}
    for path, masked in masked_kernels(ticket.model).items():
        mask = masked.mask_value()
        assert_array_equal(masked.kernel, np.where(mask, expected[path], 0))
    assert int(values(ticket.model.optimizer.iterations)) == rewind_step
    own, _ = plain_state(ticket.model)
    other, _ = plain_state(dense)
    for ours, theirs in zip(own, other, strict=True):
        if ours.ndim == 1:  # biases and moving averages
            assert_array_equal(ours, theirs)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the compiled loop is TensorFlow's")
def test_the_compiled_loop_stops_at_the_early_step():
    def compiled(model, callbacks):
        stf.training.fit(model, X, Y, steps=9, batch_size=16, callbacks=callbacks)

    model = network()
    ticket = lottery_ticket(model, compiled, 0.5, rounds=1, rewind_step=4)
    dense = stf.sparsify(model)
    stf.training.fit(dense, X, Y, steps=4, batch_size=16)
    for path, masked in masked_kernels(ticket.model).items():
        early = values(masked_kernels(dense)[path].kernel)
        assert_array_equal(masked.kernel, np.where(masked.mask_value(), early, 0))


def test_the_given_model_stays_as_it_was():
    model = network()
    before = [values(v).copy() for v in model.variables]
    lottery_ticket(model, train, 0.5, rounds=1)
    for old, new in zip(before, model.variables, strict=True):
        assert_array_equal(old, new)


def test_masks_shrink_to_the_shares_of_the_rounds():
    seen = []

    def watch(model, callbacks):
        seen.append(stf.get_masks(model))
        return train(model, callbacks)

    ticket = lottery_ticket(network(), watch, 0.9, rounds=4)
    seen.append(ticket.masks)
    total = 8 * 12 + 12 * 3
    for k, masks in enumerate(seen):
        share = 1 - 0.1 ** (k / 4)
        assert sum((~m).sum() for m in masks.values()) == round(share * total)
    for before, after in zip(seen, seen[1:], strict=False):
        assert not any((after[path] & ~before[path]).any() for path in after)


def test_masked_weights_stay_zero_in_each_round_and_after():
    ends = []

    def watch(model, callbacks):
        train(model, callbacks)
        for masked in masked_kernels(model).values():
            ends.append(np.abs(values(masked.kernel)[~masked.mask_value()]).sum())

    optimizer = keras.optimizers.Adam(0.01)
    ticket = lottery_ticket(network(optimizer), watch, 0.8, 3, rewind_step=2)
    watch(ticket.model, [])
    assert len(ends) == 8
    assert not any(ends)


def test_layers_can_be_left_out():
    ticket = lottery_ticket(network(), train, 0.5, rounds=1, exclude="second")
    assert set(ticket.masks) == {"first/kernel"}


def test_controls():
    ticket = lottery_ticket(network(), train, 0.8, rounds=2)
    shuffled = stf.transform.shuffle_masks(ticket.masks, seed=1)
    for path, mask in ticket.masks.items():
        assert shuffled[path].sum() == mask.sum()
    assert any((shuffled[p] != m).any() for p, m in ticket.masks.items())
    again = stf.transform.shuffle_masks(ticket.masks, seed=1)
    assert all((again[p] == m).all() for p, m in shuffled.items())
    other = stf.get_masks(ticket.on(shuffled))
    assert all((other[p] == m).all() for p, m in shuffled.items())
    fresh = stf.rebuild(ticket.model, ticket.masks, seed=5)
    kernel = values(masked_kernels(fresh)["first/kernel"].kernel)
    old = values(masked_kernels(ticket.model)["first/kernel"].kernel)
    assert ((kernel != 0) == (old != 0)).all()
    assert (kernel != old)[old != 0].all()


def test_the_seed_of_a_shuffle_matters():
    masks = {"a": np.arange(100).reshape(10, 10) < 30}
    found = [stf.transform.shuffle_masks(masks, seed)["a"] for seed in (0, 1)]
    assert (found[0] != found[1]).any()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"train": None}, TypeError, "`train` must be a function"),
        ({"sparsity": 1.0}, ValueError, "`sparsity` must be in"),
        ({"rounds": 0}, ValueError, "`rounds` must be 1 or more"),
        ({"rounds": 1.5}, TypeError, "`rounds` must be an integer"),
        ({"rewind_step": -1}, ValueError, "`rewind_step` must be 0 or more"),
        ({"rewind_step": 99}, ValueError, "ended at step 4, rewind_step=99"),
        ({"scope": "all"}, ValueError, "`scope` must be one of"),
        ({"exclude": "third"}, ValueError, "`exclude` names the layer 'third'"),
        ({"model": "model"}, TypeError, "`model` must be a keras.Model"),
    ],
)
def test_bad_arguments_are_refused(changes, error, words):
    arguments = {"model": network(), "train": train, "sparsity": 0.5, **changes}
    with pytest.raises(error, match=words):
        lottery_ticket(**arguments)


def test_a_model_that_is_not_compiled_is_refused():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="must be built and compiled"):
        lottery_ticket(model, train, 0.5)
