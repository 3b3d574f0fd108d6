"""Training from new weights on frozen masks, once per seed."""

import random

import keras
import numpy as np
import pytest
from keras import layers

import sparsenet_tf as stf
from sparsenet_tf.layers import tree


def values(tensor):
    return keras.ops.convert_to_numpy(tensor)


def kernels_of(model):
    return {path: values(kernel) for path, kernel in tree.kernels(model).items()}


def data(n=24):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 6)).astype("float32")
    return x, (x @ rng.normal(size=(6, 2))).astype("float32")


def network(optimizer="adam", compiled=True, run_eagerly=True):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(10, activation="relu", name="a"),
            layers.Dropout(0.3, name="drop"),
            layers.Dense(2, name="b"),
        ],
        name="net",
    )
    if compiled:
        # Eagerly, since the models here are too small for tracing to pay.
        model.compile(optimizer, "mse", metrics=["mae"], run_eagerly=run_eagerly)
    return model


def masks_of(model, sparsity=0.6):
    rng = np.random.default_rng(1)
    kernels = tree.kernels(model)
    return {path: rng.random(k.shape) >= sparsity for path, k in kernels.items()}


class Net(keras.Model):
    def __init__(self, units=2, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.first, self.second = layers.Dense(8), layers.Dense(units)

    def call(self, x):
        return self.second(self.first(x))

    def get_config(self):
        return {"units": self.units}


FIT = {"epochs": 2, "batch_size": 8, "verbose": 0}


def run(seeds, model=None, **kwargs):
    model = model or network()
    return stf.retrain_from_scratch(
        model, masks_of(model), *data(), seeds=seeds, **FIT, **kwargs
    )


def same(one, other):
    one_by_one = zip(
        kernels_of(one.model).values(), kernels_of(other.model).values(), strict=True
    )
    return one.history == other.history and all(
        np.array_equal(a, b) for a, b in one_by_one
    )


def test_one_history_per_seed_in_their_order():
    histories = run((3, 1, 2))
    assert len(histories) == 3
    assert len({id(history.model) for history in histories}) == 3
    for history in histories:
        assert type(history) is keras.callbacks.History
        assert history.epoch == [0, 1]
        assert set(history.history) == {"loss", "mae"}
        assert np.isfinite(history.history["loss"]).all()
    assert same(histories[1], run((1,))[0])


def test_three_seeds_by_default():
    model = network()
    histories = stf.retrain_from_scratch(model, masks_of(model), *data(), **FIT)
    assert same(histories[2], run((2,))[0]) and len(histories) == 3


def test_one_seed_as_a_number():
    (history,) = run(4)
    assert same(history, run((4,))[0])


@pytest.mark.parametrize("run_eagerly", [True, False])
def test_a_seed_repeats_alone_and_after_others(run_eagerly):
    first = run((0, 1), network(run_eagerly=run_eagerly))
    keras.utils.set_random_seed(77)
    random.random(), np.random.random()
    second = run((1, 0), network(run_eagerly=run_eagerly))
    assert same(first[0], second[1]) and same(first[1], second[0])
    assert not same(first[0], first[1])


def test_shuffling_and_dropout_differ_between_seeds():
    # With all weights at zero, only the order of samples and dropout are drawn.
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(10, name="a", kernel_initializer="zeros"),
            layers.Dropout(0.3, name="drop"),
            layers.Dense(2, name="b", kernel_initializer="ones"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.01), "mse", run_eagerly=True)
    one, other, again = run((0,), model)[0], run((1,), model)[0], run((0,), model)[0]
    assert same(one, again) and not same(one, other)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.1, momentum=0.9),
        lambda: keras.optimizers.AdamW(0.05, weight_decay=0.1),
        lambda: keras.optimizers.Ftrl(0.1),
        lambda: keras.optimizers.Adam(0.05, use_ema=True, ema_overwrite_frequency=2),
    ],
    ids=["momentum", "adamw", "ftrl", "ema"],
)
@pytest.mark.often("momentum", "ema")
def test_masked_weights_are_zero_after_training_and_others_moved(optimizer):
    model = network(optimizer())
    masks = masks_of(model)
    (history,) = run((0,), model)
    start = kernels_of(stf.rebuild(model, masks, 0))
    for path, kernel in kernels_of(history.model).items():
        assert not kernel[~masks[path]].any()
        assert (kernel[masks[path]] != start[path][masks[path]]).any()
    for path, mask in stf.get_masks(history.model).items():
        np.testing.assert_array_equal(mask, masks[path])


def test_starts_from_what_rebuild_gives():
    model = network(keras.optimizers.SGD(0.0))
    masks = masks_of(model)
    for scale in (False, True):
        (history,) = run((7,), model, scale_to_fan_in=scale)
        expected = kernels_of(stf.rebuild(model, masks, 7, scale))
        for path, kernel in kernels_of(history.model).items():
            np.testing.assert_array_equal(kernel, expected[path])


def test_model_is_untouched_and_none_of_its_weights_is_used():
    model = network()
    model.fit(*data(), verbose=0)
    before = [values(w) for w in [*model.weights, *model.optimizer.variables]]
    optimizer, parts = model.optimizer, list(model.layers)
    one = run((0,), model)[0]
    after = [values(w) for w in [*model.weights, *model.optimizer.variables]]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    assert model.optimizer is optimizer and model.layers == parts
    assert one.model.optimizer is not optimizer
    for weight in model.weights:
        weight.assign(np.full(weight.shape, np.nan))
    assert same(one, run((0,), model)[0])


def test_each_run_has_its_own_optimizer():
    one, other = run((0, 1))
    assert one.model.optimizer is not other.model.optimizer
    steps = [int(h.model.optimizer.iterations) for h in (one, other)]
    assert steps == [6, 6]


def test_python_and_numpy_are_given_back():
    model = network()
    python, numpy = random.getstate(), np.random.get_state()
    run((0, 1), model)
    assert random.getstate() == python
    np.testing.assert_equal(np.random.get_state(), numpy)


def test_python_and_numpy_are_given_back_after_a_failure():
    class Stop(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            raise RuntimeError("stop")

    model = network()
    python, numpy = random.getstate(), np.random.get_state()
    with pytest.raises(RuntimeError, match="stop"):
        run((0,), model, callbacks=[Stop()])
    assert random.getstate() == python
    np.testing.assert_equal(np.random.get_state(), numpy)


def test_sparsified_model_equals_the_plain_one():
    sparse = stf.pruning.prune_one_shot(network(), 0.5)
    assert same(run((0,), sparse)[0], run((0,))[0])


def test_subclassed_model():
    model = Net()
    model.compile("adam", "mse", run_eagerly=True)
    model(data()[0])
    masks = masks_of(model)
    histories = stf.retrain_from_scratch(model, masks, *data(), seeds=(0, 1, 2), **FIT)
    again = stf.retrain_from_scratch(model, masks, *data(), seeds=(1,), **FIT)
    assert same(histories[1], again[0])
    for history in histories:
        assert isinstance(history.model, Net) and history.model is not model
        kernels = kernels_of(history.model).values()
        for kernel, mask in zip(kernels, masks.values(), strict=True):
            assert not kernel[~mask].any() and kernel[mask].all()


def test_fit_arguments_and_callbacks():
    class Count(keras.callbacks.Callback):
        models, epochs = (), 0

        def on_train_begin(self, logs=None):
            self.models = (*self.models, self.model)

        def on_epoch_end(self, epoch, logs=None):
            self.epochs += 1

    count = Count()
    histories = run((0, 1), callbacks=[count], validation_data=data())
    assert count.epochs == 4
    assert list(count.models) == [history.model for history in histories]
    assert {"val_loss", "val_mae"} < set(histories[0].history)


class Batches(keras.utils.PyDataset):
    """The data in batches, with the targets."""

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return tuple(part[8 * i : 8 * i + 8] for part in data())


def dataset_with_targets_in_it(dataset):
    model = network()
    one, other = (
        stf.retrain_from_scratch(
            model, masks_of(model), dataset, None, seeds=seeds, shuffle=False, verbose=0
        )
        for seeds in [(0, 1), (1,)]
    )
    assert same(one[1], other[0]) and not same(one[0], one[1])


def test_dataset_with_targets_in_it():
    dataset_with_targets_in_it(Batches())


def test_model_that_is_not_compiled():
    with pytest.raises(ValueError, match="`model` must be compiled.*'net'"):
        run((0,), network(compiled=False))


@pytest.mark.parametrize("seeds", [(), [], (1, 1), (0, 1, 0)])
def test_seeds_that_are_none_or_not_distinct(seeds):
    with pytest.raises(ValueError, match="`seeds` must be distinct integers"):
        run(seeds)


@pytest.mark.parametrize(
    "seeds, error", [((0, -1), ValueError), ((0, 1.5), TypeError), ("ab", TypeError)]
)
def test_seeds_that_are_wrong(seeds, error):
    with pytest.raises(error, match="`seed"):
        run(seeds)


def test_bad_masks_are_found_before_any_training():
    model, started = network(), []
    callback = keras.callbacks.LambdaCallback(on_train_begin=started.append)
    for masks, error in [
        ({"c/kernel": np.ones((6, 10), bool)}, ValueError),
        ({"a/kernel": np.ones((10, 6), bool)}, ValueError),
        ([], TypeError),
    ]:
        with pytest.raises(error, match="`mask"):
            stf.retrain_from_scratch(model, masks, *data(), callbacks=[callback], **FIT)
    assert not started


@pytest.mark.parametrize("model", [None, "model", layers.Dense(3)])
def test_something_else_than_a_model(model):
    with pytest.raises(TypeError, match="`model` must be a keras.Model"):
        stf.retrain_from_scratch(model, {}, *data(), **FIT)
