"""`training.fit`: the compiled loop trains as Keras does, step by step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import sparsenet_tf as stf
from sparsenet_tf.training import fit, loop

L = keras.layers


def data(rows=50, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 6)).astype("float32"), rng.integers(0, 3, rows)


def small(optimizer="sgd", sparse=False, **options):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((6,)), L.Dense(8, "relu", name="a"), L.Dense(3, name="b")]
    model = keras.Sequential(layers)
    if sparse:
        model = stf.sparsify(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], **options)
    return model


def pruning(end=12, frequency=4):
    schedule = stf.pruning.PolynomialDecay(0.0, 0.75, 2, end, frequency=frequency)
    return stf.pruning.PruningCallback(schedule)


def assert_same(model, other, **tolerance):
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, **({"rtol": 0, "atol": 0} | tolerance))


def batches_of(x, y, size, steps, seed):
    """The batches of the loop, in its order, as NumPy arrays."""
    source = loop._Batches(x, y, size, seed)
    step = 0
    while step < steps:
        rows, count = source.several(*tf.constant([step, steps - step], tf.int64))
        for i in range(count):
            yield tuple(part.numpy() for part in source.next(rows, i))
        step += int(count)


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.01, clipnorm=1.0),
    "ema": lambda: keras.optimizers.SGD(0.1, use_ema=True),
    "accumulation": lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=3),
    "schedule": lambda: keras.optimizers.SGD(
        keras.optimizers.schedules.PiecewiseConstantDecay([5], [0.1, 0.01])
    ),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1)
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.often("sgd", "ema", "accumulation", "loss scale")
def test_trains_as_keras_does(name):
    x, y = data()
    model, other = small(OPTIMIZERS[name]()), small(OPTIMIZERS[name]())
    fit(model, x, y, steps=11, batch_size=16, evaluate_every=4, seed=3)
    for batch in batches_of(x, y, 16, 11, seed=3):
        other.train_on_batch(*batch)
    other.optimizer.finalize_variable_values(other.trainable_weights)
    assert_same(model, other, rtol=1e-5, atol=1e-6)


def test_each_row_comes_once_before_any_comes_again():
    x = np.arange(50, dtype="float32")[:, None]
    rows = [b[0].ravel().tolist() for b in batches_of(x, x, 16, 7, seed=0)]
    passes = [sum(rows[:3], []), sum(rows[3:6], [])]
    for one in passes:
        assert len(set(one)) == 48
    assert passes[0] != passes[1]
    other = [b[0].ravel().tolist() for b in batches_of(x, x, 16, 3, seed=1)]
    assert sum(other, []) != passes[0]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_equal_seeds_give_equal_weights(jit_compile):
    x, y = data()
    fit(
        small(), x, y, steps=2, batch_size=10
    )  # The first in a process can differ in a last bit.
    models = [small(jit_compile=jit_compile) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        fit(model, x, y, steps=10, batch_size=10, evaluate_every=5, seed=seed)
    assert_same(models[0], models[1])
    with pytest.raises(AssertionError):
        assert_same(models[0], models[2], atol=1e-6)


def test_history_has_the_metrics_of_each_period():
    (x, y), validation = data(), data(1234, seed=1)
    model = small()
    history = fit(
        model,
        x,
        y,
        steps=10,
        batch_size=10,
        evaluate_every=4,
        validation_data=validation,
    )
    assert history.history["step"] == [4, 8, 10] and history.epoch == [0, 1, 2]
    found = model.evaluate(*validation, verbose=0, return_dict=True)
    assert history.history["val_loss"][-1] == pytest.approx(found["loss"], rel=1e-5)
    accuracy = history.history["val_accuracy"][-1]
    assert accuracy == pytest.approx(found["accuracy"], abs=1e-6)
    assert history.history["loss"][0] > 0 and "accuracy" in history.history


def test_prunes_at_every_due_step():
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append((int(self.model.optimizer.iterations.value), logs["sparsity"]))

    x, y = data()
    model = small(sparse=True)
    callback = pruning(end=13)
    fit(
        model,
        x,
        y,
        steps=16,
        batch_size=10,
        evaluate_every=5,
        callbacks=[callback, Watch()],
    )
    # Due at 2, 6, 10 and 13; the periods end at 5, 10, 15 and 16.
    steps, sparsities = zip(*seen, strict=True)
    assert steps == (2, 5, 6, 10, 13, 15, 16)
    schedule = callback.schedule
    wanted = [schedule(schedule.last_update(step)) for step in steps]
    np.testing.assert_allclose(sparsities, wanted, atol=0.02)
    kernels = stf.get_masks(model)
    assert sum(mask.sum() for mask in kernels.values()) == 72 - 54
    for layer, mask in zip(model.layers, kernels.values(), strict=True):
        assert not np.any(layer.kernel.numpy()[~mask])


def test_prunes_as_keras_fit_does():
    x, y = data()
    models = [small(OPTIMIZERS["sgd"](), sparse=True) for _ in range(2)]
    fit(models[0], x, y, steps=15, batch_size=10, callbacks=[pruning()], seed=2)
    batches = list(batches_of(x, y, 10, 15, seed=2))
    dataset = tf.data.Dataset.from_tensor_slices(
        tuple(np.stack(part) for part in zip(*batches, strict=True))
    )
    models[1].fit(dataset, shuffle=False, callbacks=[pruning()], verbose=0)
    assert_same(*models, rtol=1e-5, atol=1e-6)


def test_resumed_equals_uninterrupted(tmp_path):
    x, y = data()
    arguments = dict(batch_size=10, seed=4, evaluate_every=4)
    fit(small(), x, y, steps=2, batch_size=10)
    whole = small(OPTIMIZERS["adam"](), sparse=True)
    fit(whole, x, y, steps=14, callbacks=[pruning()], **arguments)
    parted = small(OPTIMIZERS["adam"](), sparse=True)
    with pytest.warns(UserWarning, match="Training ended at step 7"):
        fit(parted, x, y, steps=7, callbacks=[pruning()], **arguments)
    parted.save(tmp_path / "model.keras")
    parted = keras.saving.load_model(tmp_path / "model.keras")
    fit(parted, x, y, steps=7, callbacks=[pruning()], **arguments)
    assert_same(whole, parted)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.often("adam", "accumulation")
def test_frozen_masks_hold(name):
    model = stf.pruning.prune_one_shot(small(OPTIMIZERS[name]()), 0.5)
    fit(model, *data(), steps=5, batch_size=10)
    for layer, mask in zip(model.layers, stf.get_masks(model).values(), strict=True):
        assert not np.any(layer.kernel.numpy()[~mask]) and mask.mean() == 0.5
    x, y = data()
    model.compile("adam", model.loss)
    model.train_on_batch(x, y)  # guarded again
    for layer, mask in zip(model.layers, stf.get_masks(model).values(), strict=True):
        assert not np.any(layer.kernel.numpy()[~mask])


def test_masks_set_in_the_midst_hold():
    class Cut(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                stf.pruning.prune_one_shot(self.model, 0.75)

    model = small(OPTIMIZERS["sgd"](), sparse=True)
    fit(model, *data(), steps=9, batch_size=10, evaluate_every=3, callbacks=[Cut()])
    for layer, mask in zip(model.layers, stf.get_masks(model).values(), strict=True):
        assert not np.any(layer.kernel.numpy()[~mask]) and mask.mean() == 0.25


def test_callbacks_of_keras_stop_and_slow_it():
    callbacks = [
        keras.callbacks.EarlyStopping("loss", patience=1, min_delta=1e9),
        keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (1 + epoch)),
    ]
    model = small()
    history = fit(
        model, *data(), steps=100, batch_size=10, evaluate_every=5, callbacks=callbacks
    )
    assert history.history["step"] == [5, 10]
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)


def test_a_dataset_of_batches():
    x, y = data()
    model, other = small(), small()
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(10)
    fit(model, dataset, steps=7, evaluate_every=3)
    for step in range(7):
        part = slice(10 * (step % 5), 10 * (step % 5) + 10)
        other.train_on_batch(x[part], y[part])
    assert_same(model, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("step", range(12))
def test_the_next_update_is_found(step):
    schedules = [pruning(end=9).schedule, stf.pruning.ConstantSparsity(0.5, 11)]
    model = small()
    model.optimizer.iterations.assign(step)
    due = [s for s in (2, 6, 9, 11) if s > step]
    wanted = min(due[0] - step if due else 99, 7)
    run = loop._Loop(model, None, ())
    run.read_step()
    assert run.steps_until_due(schedules, 7) == wanted
    assert run.steps_until_due([], 7) == 7


@pytest.mark.parametrize(
    "name, value",
    [
        ("steps", 0),
        ("steps", 1.5),
        ("batch_size", -1),
        ("evaluate_every", "all"),
        ("seed", -1),
        ("seed", True),
    ],
)
def test_bad_numbers(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be an integer.*{value!r}"):
        fit(small(), *data(), **{"steps": 5, "batch_size": 10, name: value})


def test_bad_data_and_models():
    x, y = data()
    with pytest.raises(ValueError, match="50 and 49 rows"):
        fit(small(), x, y[1:], steps=5, batch_size=10)
    with pytest.raises(ValueError, match="at least a batch of 60"):
        fit(small(), x, y, steps=5, batch_size=60)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(10)
    with pytest.raises(ValueError, match="`y` must be None"):
        fit(small(), dataset, y, steps=5)
    with pytest.raises(TypeError, match="`model`"):
        fit("model", x, y, steps=5)
    with pytest.raises(ValueError, match="built and compiled"):
        fit(keras.Sequential([keras.Input((6,)), L.Dense(3)]), x, y, steps=5)
