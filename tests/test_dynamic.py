"""Dynamic sparse training of masked layers: what moves, when, and what stays."""

import itertools
import math
import zlib

import keras
import numpy as np
import pytest
from backends import (
    assert_allclose,
    assert_array_equal,
    gradients_of,
    separate_arrays,
    several_steps,
    values,
)

import sparsenet_tf as stf
from sparsenet_tf.pruning import SET, CosineDecay, PruningCallback, RigL
from sparsenet_tf.pruning.connections import find_connections
from sparsenet_tf.pruning.dense_gradients import highest_gradients
from sparsenet_tf.pruning.slots import slots_of
from sparsenet_tf.topology.random import random_positions
from sparsenet_tf.topology.selection import highest

L = keras.layers
STEPS, BATCH = 24, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(BATCH * STEPS, 10)).astype("float32")
Y = RNG.normal(size=(BATCH * STEPS, 3)).astype("float32")
SCHEDULE = CosineDecay(0.6, end_step=20, frequency=3)


def at_random(weights):
    return np.random.default_rng(weights.size).random(weights.shape)


def build(optimizer=None, sparsity=0.7, **compile_args):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((10,)),
            L.Dense(16, "relu", name="first"),
            L.Dense(8, "tanh", name="second"),
            L.Dense(3, name="last"),
        ]
    )
    model = stf.pruning.prune_one_shot(model, sparsity, at_random, scope="erk")
    optimizer = optimizer or keras.optimizers.SGD(0.05, momentum=0.9)
    model.compile(optimizer, "mse", **compile_args)
    model.optimizer.build(model.trainable_variables)  # or steps are traced twice
    separate_arrays(model)
    return model


def method(kind, schedule=SCHEDULE, **options):
    return SET(schedule, **options) if kind is SET else RigL(schedule, X, Y, **options)


def fit(model, *callbacks, begin=0, end=STEPS, **options):
    part = slice(BATCH * begin, BATCH * end)
    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **options}
    return model.fit(X[part], Y[part], callbacks=list(callbacks), **options)


def state(model):
    return [values(v) for v in [*model.variables, *model.optimizer.variables]]


def assert_same_state(model, other):
    for ours, theirs in zip(state(model), state(other), strict=True):
        assert_array_equal(ours, theirs)


class Watch(keras.callbacks.Callback):
    """Checks after each step what must hold then; listed after the method."""

    def __init__(self, method):
        super().__init__()
        self.method = method
        self.masks, self.counts, self.moved = None, None, 0

    def on_train_begin(self, logs=None):
        self.masks = stf.get_masks(self.model)
        self.counts = {path: mask.sum() for path, mask in self.masks.items()}

    def on_train_batch_end(self, batch, logs=None):
        masks = stf.get_masks(self.model)
        step = int(self.model.optimizer.iterations)
        for path, masked in stf.layers.masked.masked_kernels(self.model).items():
            kernel = values(masked.kernel)
            assert masks[path].sum() == self.counts[path]
            assert not kernel[~masks[path]].any()
            new = masks[path] & ~self.masks[path]
            assert not kernel[new].any()
            for _, slot in slots_of(self.model.optimizer, masked.kernel):
                assert not values(slot)[~masks[path] | new].any()
            if step in self.method.updates:
                assert self.method.updates[step][path] == new.sum()
                self.moved += new.sum()
            else:
                assert not new.any()
        self.masks = masks


# The schedule.


def test_the_fraction_is_a_cosine():
    schedule = CosineDecay(0.4, end_step=110, begin_step=10, frequency=25)
    for step in range(10, 110):
        angle = math.pi * (step - 10) / 100
        assert schedule(step) == pytest.approx(0.2 * (1 + math.cos(angle)))
    assert schedule(9) == schedule(110) == schedule(10**9) == 0.0
    steps = (9, 10, 34, 35, 109, 110, 10**9)
    assert [schedule.last_update(s) for s in steps] == [None, 10, 10, 35, 85, 85, 85]
    assert CosineDecay(0.3, 0).last_update(5) is None


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"initial_fraction": 1.5}, ValueError, r"\[0, 1\]. Received: 1.5"),
        ({"initial_fraction": float("nan")}, ValueError, "initial_fraction"),
        ({"initial_fraction": "0.3"}, TypeError, "initial_fraction"),
        ({"begin_step": 11}, ValueError, "end_step"),
        ({"frequency": 0}, ValueError, "frequency"),
        ({"end_step": 10.0}, TypeError, "end_step"),
    ],
)
def test_the_schedule_refuses(arguments, error, match):
    with pytest.raises(error, match=match):
        CosineDecay(**{"initial_fraction": 0.3, "end_step": 10, **arguments})


# Choosing.


def test_highest_keeps_the_first_of_equals():
    for scores in itertools.product([0.0, 1.0, 2.0], repeat=4):
        for count in range(5):
            order = sorted(range(4), key=lambda i: (-scores[i], i))
            assert highest(np.array(scores), count).tolist() == sorted(order[:count])


def test_random_positions_are_free_and_equally_likely():
    taken = np.array([0, 1, 4, 7])
    drawn = [tuple(random_positions(9, taken, 2, [1, i])) for i in range(3000)]
    pairs = list(itertools.combinations([2, 3, 5, 6, 8], 2))
    assert set(drawn) == set(pairs)
    counts = [drawn.count(pair) for pair in pairs]
    # Chi-squared with nine degrees of freedom: 27.9 has a probability of 0.001.
    assert sum((c - 300) ** 2 / 300 for c in counts) < 27.9
    assert random_positions(9, taken, 5, 0).tolist() == [2, 3, 5, 6, 8]
    assert random_positions(9, taken, 0, 0).size == 0


# Worked out by hand.


def linear(kernel, mask):
    model = keras.Sequential([keras.Input((2,)), L.Dense(2, use_bias=False, name="d")])
    model = stf.sparsify(model, {"d/kernel": np.array(mask, bool)})
    model.layers[0].kernel.assign(np.array(kernel, "float32"))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


def one_step(model, x, y, callback):
    x, y = np.array([x], "float32"), np.array([y], "float32")
    model.fit(x, y, verbose=0, callbacks=[callback])
    return values(model.layers[0].kernel), model.layers[0].masks["kernel"]


HALF = CosineDecay(1.0, end_step=2, frequency=1)  # after one step: (1 + cos(pi/2)) / 2


def test_set_by_hand():
    # 3 and -2 stay, 1 is dropped; of the two places then free, one is drawn: the
    # dropped one, which keeps its weight, or the last, which begins at zero.
    schedule = CosineDecay(0.8, end_step=2, frequency=1)  # 0.4 * 3 = 1.2 are dropped
    seen = set()
    for seed in range(6):
        rng = np.random.default_rng([seed, zlib.crc32(b"d/kernel"), 1])
        first = rng.choice(2, 1, shuffle=False)[0] == 0
        model = linear([[3, 1], [-2, 0]], [[1, 1], [1, 0]])
        callback = SET(schedule, seed=seed)
        kernel, mask = one_step(model, [1, 2], [0, 0], callback)
        assert_array_equal(kernel, [[3, 1 if first else 0], [-2, 0]])
        assert_array_equal(mask, [[True, first], [True, not first]])
        assert callback.updates == {1: {"d/kernel": 0 if first else 1}}
        seen.add(bool(first))
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("y", "kernel", "mask"),
    [
        # z = (5, 0), dL/dz = z - y, dL/dW = [[1], [2]] dL/dz; 1 is dropped.
        # y = (4.9, 4): dL/dW = [[0.1, -4], [0.2, -8]], so the last place grows.
        ([4.9, 4.0], [[3, 0], [0, 0]], [[1, 0], [0, 1]]),
        # y = (0, 1): dL/dW = [[5, -1], [10, -2]]: the dropped one is grown again.
        ([0.0, 1.0], [[3, 0], [1, 0]], [[1, 0], [1, 0]]),
    ],
)
def test_rigl_by_hand(y, kernel, mask):
    model = linear([[3, 0], [1, 0]], [[1, 0], [1, 0]])
    x = np.array([[1.0, 2.0]], "float32")
    callback = RigL(HALF, x, np.array([y], "float32"))
    found = one_step(model, [1, 2], y, callback)
    assert_array_equal(found[0], kernel)
    assert_array_equal(found[1], np.array(mask, bool))
    assert callback.updates == {1: {"d/kernel": int(mask[1][1])}}


# What always holds.


@pytest.mark.parametrize("kind", [SET, RigL])
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
        lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, use_ema=True),
    ],
    ids=["SGD", "AdamW"],
)
@pytest.mark.often("SGD-SET", "AdamW-RigL")
def test_counts_zeros_and_slots(kind, optimizer):
    model = build(optimizer())
    callback = method(kind)
    watch = Watch(callback)
    history = fit(model, callback, watch)
    assert list(callback.updates) == [3, 6, 9, 12, 15, 18]
    assert watch.moved > 20
    zeros = [~mask for mask in stf.get_masks(model).values()]
    share = sum(z.sum() for z in zeros) / sum(z.size for z in zeros)
    assert history.history["sparsity"] == [pytest.approx(share)]
    assert callback.sparsity == pytest.approx(share)


def test_guarded_kernels_stay_zero_too():
    model = build(keras.optimizers.Ftrl(0.05))  # which is not element-wise
    callback = SET(SCHEDULE)
    fit(model, callback)
    assert sum(sum(u.values()) for u in callback.updates.values()) > 20
    for path, masked in stf.layers.masked.masked_kernels(model).items():
        assert not values(masked.kernel)[~stf.get_masks(model)[path]].any()


def test_the_share_that_is_dropped_follows_the_schedule():
    seen = {}

    class Recorded(SET):
        def grow(self, kept, counts, due):
            for path, positions in kept.items():
                assert positions.size + counts[path] == total[path]
            seen[due] = counts
            return super().grow(kept, counts, due)

    model = build()
    total = {path: mask.sum() for path, mask in stf.get_masks(model).items()}
    fit(model, Recorded(SCHEDULE))
    assert seen == {
        step: {path: round(SCHEDULE(step) * n) for path, n in total.items()}
        for step in (3, 6, 9, 12, 15, 18)
    }


def test_rigl_grows_where_the_dense_gradient_is_largest():
    model = build()
    connections = find_connections(model)
    taken = {path: c.positions()[::2] for path, c in connections.items()}
    counts = dict.fromkeys(connections, 7)
    found = highest_gradients(model, connections, taken, counts, (X, Y))
    plain = stf.strip(model)
    kernels = stf.layers.tree.kernels(plain)

    def loss():
        return keras.ops.mean(keras.ops.subtract(plain(X, training=True), Y) ** 2)

    gradients = gradients_of(loss, list(kernels.values()))
    for path, gradient in zip(kernels, gradients, strict=True):
        scores = np.abs(values(gradient)).ravel()
        scores[taken[path]] = -1
        assert set(found[path]) == set(np.argsort(-scores)[:7])


def test_rigl_changes_nothing_but_connections():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((10,)), L.Dense(9), L.BatchNormalization(), L.Dropout(0.5)]
    )
    model = stf.pruning.prune_one_shot(model, 0.5)
    model.compile("sgd", "mse")
    before = [values(v) for v in model.variables]
    connections = find_connections(model)
    taken = {path: c.positions() for path, c in connections.items()}
    data = X, np.zeros((len(X), 9), "float32")
    highest_gradients(model, connections, taken, dict.fromkeys(taken, 3), data)
    for old, variable in zip(before, model.variables, strict=True):
        assert_array_equal(variable, old)


def test_a_fraction_of_zero_is_static_training():
    model, same = build(), build()
    callback = RigL(CosineDecay(0.0, 20, frequency=3), X, Y)
    fit(model, callback)
    fit(same)
    assert all(not any(new.values()) for new in callback.updates.values())
    for ours, theirs in zip(model.variables, same.variables, strict=True):
        assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", [SET, RigL])
def test_an_interrupted_training_goes_on_as_it_would_have(kind, tmp_path):
    whole = build()
    fit(whole, method(kind, seed=5))
    for stop in (7, 9):  # between updates, and just after one
        model = build()
        fit(model, method(kind, seed=5), end=stop)
        model.save(tmp_path / "model.keras")
        resumed = keras.saving.load_model(tmp_path / "model.keras")
        separate_arrays(resumed)
        fit(resumed, method(kind, seed=5), begin=stop)
        assert_same_state(resumed, whole)


def test_backup_and_restore(tmp_path):
    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=5)

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 12:
                raise InterruptedError

    whole = build()
    fit(whole, SET(SCHEDULE), epochs=1)
    model = build()
    with pytest.raises(InterruptedError):
        fit(model, SET(SCHEDULE), backup(), Stop())
    again = build()
    callback = SET(SCHEDULE)
    fit(again, callback, backup())
    # Keras goes on with the epoch's first batch, so the weights are others.
    assert [step for step in callback.updates if step <= 12] == [12]
    counts = [{p: m.sum() for p, m in stf.get_masks(m).items()} for m in (again, whole)]
    assert counts[0] == counts[1]


def test_another_seed_grows_others():
    masks = []
    for seed in (0, 0, 1):
        model = build()
        fit(model, SET(SCHEDULE, seed=seed))
        masks.append(np.concatenate([m.ravel() for m in stf.get_masks(model).values()]))
    assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()


@pytest.mark.parametrize("kind", [SET, RigL])
def test_several_steps_in_an_execution(kind):
    together = several_steps(4)
    model = build(steps_per_execution=together)
    callback = method(kind)
    fit(model, callback)
    late = [-(-step // together) * together for step in (3, 6, 9, 12, 15, 18)]
    assert list(callback.updates) == list(dict.fromkeys(late))


def test_updates_go_on_over_calls_of_fit():
    model, callback = build(), SET(SCHEDULE)
    for step in range(0, STEPS, 2):
        fit(model, callback, begin=step, end=step + 2)
    assert list(callback.updates) == [3, 6, 9, 12, 15, 18]
    whole = build()
    fit(whole, SET(SCHEDULE))
    assert_same_state(model, whole)


def test_excluded_kernels_stay():
    model = build()
    before = stf.get_masks(model)
    fit(model, SET(SCHEDULE, exclude="second"))
    after = stf.get_masks(model)
    assert_array_equal(after["second/kernel"], before["second/kernel"])
    assert (after["first/kernel"] != before["first/kernel"]).any()


def test_a_drop_of_ones_own():
    def keep_small(weights):
        return -np.abs(weights)

    model = linear([[3, 1], [-2, 0]], [[1, 1], [1, 0]])
    schedule = CosineDecay(0.8, end_step=2, frequency=1)
    kernel, _ = one_step(model, [1, 2], [0, 0], SET(schedule, drop=keep_small))
    assert kernel[0, 1] == 1 and kernel[1, 0] == -2


def test_an_embedding_and_a_recurrent_layer():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6,), dtype="int32"), L.Embedding(9, 4), L.LSTM(5), L.Dense(2)]
    )
    model = stf.pruning.prune_one_shot(model, 0.5)
    model.compile("adam", "mse")
    before = {path: mask.sum() for path, mask in stf.get_masks(model).items()}
    x, y = RNG.integers(0, 9, (16, 6)), RNG.normal(size=(16, 2)).astype("float32")
    callback = RigL(CosineDecay(0.5, 5, frequency=2), x, y, batch_size=8)
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[callback])
    assert {path: mask.sum() for path, mask in stf.get_masks(model).items()} == before
    assert len(callback.updates[2]) == 4
    assert sum(callback.updates[2].values()) > 0


# Refusals, and coming back.


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: SET(0.3), TypeError, "`schedule` must be the share"),
        (
            lambda: SET(stf.pruning.ConstantSparsity(0.5, 0)),
            TypeError,
            "`schedule` must be the share",
        ),
        (lambda: SET(SCHEDULE, drop="magnitude"), TypeError, "`drop` must be a func"),
        (lambda: SET(SCHEDULE, seed=-1), ValueError, "`seed`"),
        (lambda: RigL(SCHEDULE, X, Y, batch_size=0), ValueError, "`batch_size`"),
        (lambda: RigL(SCHEDULE, X, Y[1:]), ValueError, "`x` and `y` must be"),
        (lambda: PruningCallback(SCHEDULE), TypeError, "`schedule` must be a Poly"),
    ],
)
def test_arguments_are_checked(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_models_are_checked():
    plain = keras.Sequential([keras.Input((10,)), L.Dense(3, name="a")])
    for model in (plain, stf.sparsify(plain)):
        model.compile("sgd", "mse")
        with pytest.raises(ValueError, match="must have sparse kernels"):
            fit(model, SET(SCHEDULE))
    with pytest.raises(ValueError, match="`exclude` names the layer 'b'"):
        fit(build(), SET(SCHEDULE, exclude="b"))


def test_gradients_must_be_finite():
    x = np.full_like(X, np.nan)
    with pytest.raises(ValueError, match="must have finite gradients"):
        fit(build(), RigL(SCHEDULE, x, Y))


def test_a_callback_comes_back_with_its_arguments():
    x = {"a": X[:3], "b": [X[:3, :2]]}
    callback = RigL(SCHEDULE, x, Y[:3], 2, stf.pruning.magnitude, "last", seed=7)
    config = keras.saving.serialize_keras_object(callback)
    revived = keras.saving.deserialize_keras_object(config)
    assert revived.schedule.get_config() == SCHEDULE.get_config()
    assert revived.drop is stf.pruning.magnitude
    assert (revived.batch_size, revived.exclude, revived.seed) == (2, ("last",), 7)
    assert_allclose(revived.x["b"][0], X[:3, :2])
    assert_allclose(revived.y, Y[:3])
