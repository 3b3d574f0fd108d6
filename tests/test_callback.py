"""`PruningCallback` inside `fit`: when it prunes, how much, and what it reports."""

import keras
import numpy as np
import pytest
from backends import assert_array_equal, separate_arrays, several_steps, values

import sparsenet_tf as stf
from sparsenet_tf.pruning import ConstantSparsity, PolynomialDecay, PruningCallback

L = keras.layers


def _model(optimizer=None, **compile_args):
    model = stf.sparsify(
        keras.Sequential(
            [keras.Input((10,)), L.Dense(20, name="hidden"), L.Dense(5, name="out")]
        )
    )
    model.compile(
        optimizer or keras.optimizers.SGD(0.05, momentum=0.9), "mse", **compile_args
    )
    return model


def _fit(model, callback, steps, **fit_args):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4 * steps, 10)).astype("float32")
    y = rng.normal(size=(4 * steps, 5)).astype("float32")
    fit_args = {"verbose": 0, "shuffle": False, **fit_args}
    callbacks = callback if isinstance(callback, list) else [callback] * bool(callback)
    return model.fit(x, y, batch_size=4, callbacks=callbacks, **fit_args)


def _zeros(model):
    return [
        int(np.count_nonzero(values(k) == 0))
        for k in stf.layers.tree.kernels(model).values()
    ]


class Recorder(keras.callbacks.Callback):
    """What the model looks like after each call back, in steps and zeros."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.optimizer.iterations.numpy())
        self.seen[step] = (_zeros(self.model), logs["sparsity"])


@pytest.mark.parametrize(
    "steps_per_execution", sorted({several_steps(n) for n in (1, 2, 5, 7, 50)})
)
def test_follows_the_schedule(steps_per_execution):
    schedule = PolynomialDecay(0.1, 0.8, begin_step=3, end_step=33, frequency=4)
    model = _model(steps_per_execution=steps_per_execution)
    recorder = Recorder()
    callback = PruningCallback(schedule)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 10)), rng.normal(size=(200, 5))
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[callback, recorder])
    assert max(recorder.seen) == 50
    if steps_per_execution == 1:
        assert list(recorder.seen) == list(range(1, 51))
    for step, (zeros, reported) in recorder.seen.items():
        due = schedule.last_update(step)
        expected = [0, 0] if due is None else [
            round(schedule(due) * size) for size in (200, 100)
        ]  # fmt: skip
        assert zeros == expected, step
        assert reported == pytest.approx(sum(expected) / 300)


@pytest.mark.parametrize("frequency", [1, 3, 7, 100])
def test_final_sparsity_is_reached(frequency):
    model = _model()
    schedule = PolynomialDecay(0.0, 0.77, 1, 20, frequency=frequency)
    _fit(model, PruningCallback(schedule), 20)
    assert _zeros(model) == [154, 77]


def test_one_shot_schedule():
    model = _model()
    recorder = Recorder()
    callback = PruningCallback(PolynomialDecay(0.0, 0.5, 4, 4))
    rng = np.random.default_rng(0)
    model.fit(
        rng.normal(size=(32, 10)),
        rng.normal(size=(32, 5)),
        batch_size=4,
        verbose=0,
        callbacks=[callback, recorder],
    )
    assert [zeros for zeros, _ in recorder.seen.values()] == (
        [[0, 0]] * 3 + [[100, 50]] * 5
    )


def test_prunes_before_the_first_step():
    model = _model()
    _fit(model, PruningCallback(ConstantSparsity(0.5, 0)), 1)
    assert _zeros(model) == [100, 50]


def test_step_is_the_optimizers_over_several_fits():
    schedule = PolynomialDecay(0.0, 0.9, begin_step=5, end_step=25, frequency=5)
    whole, parts = _model(), _model()
    parts.set_weights(whole.get_weights())
    _fit(whole, PruningCallback(schedule), 10, epochs=3)
    for epochs in (1, 2, 3):
        if epochs < 3:
            with pytest.warns(UserWarning, match="before the pruning schedule"):
                _fit(parts, PruningCallback(schedule), 10)
        else:
            _fit(parts, PruningCallback(schedule), 10)
    for one, other in zip(whole.get_weights(), parts.get_weights(), strict=True):
        assert_array_equal(one, other)


@pytest.mark.parametrize("stop", [3, 11, 12, 13, 19])
@pytest.mark.often("3", "12")
def test_resumes_from_a_saved_model(stop, tmp_path):
    """Interrupted anywhere in the schedule: the same as without, to the last bit."""
    schedule = PolynomialDecay(0.0, 0.9, begin_step=4, end_step=20, frequency=4)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4 * 24, 10)).astype("float32")
    y = rng.normal(size=(4 * 24, 5)).astype("float32")

    def fit(model, begin, end):
        part = slice(4 * begin, 4 * end)
        model.fit(x[part], y[part], batch_size=4, verbose=0, shuffle=False,
                  callbacks=[PruningCallback(schedule)])  # fmt: skip

    optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=5)
    whole = _model(optimizer)
    optimizer.build(whole.trainable_variables)
    whole.save(tmp_path / "start.keras")
    resumed = keras.models.load_model(tmp_path / "start.keras")
    whole_again = keras.models.load_model(tmp_path / "start.keras")
    # Both end the first `fit` at `stop`, where it writes the averages; only one
    # of them goes through a file.
    for model in (resumed, whole_again):
        with pytest.warns(UserWarning, match="before the pruning schedule"):
            fit(model, 0, stop)
    resumed.save(tmp_path / "stop.keras")
    resumed = keras.models.load_model(tmp_path / "stop.keras")
    for model in (resumed, whole_again):
        separate_arrays(model)
        fit(model, stop, 24)
    assert _zeros(resumed) == [180, 90]
    for one, other in zip(
        whole_again.get_weights()
        + [v.numpy() for v in whole_again.optimizer.variables],
        resumed.get_weights() + [v.numpy() for v in resumed.optimizer.variables],
        strict=True,
    ):
        assert_array_equal(one, other)


def test_gradient_accumulation_and_loss_scaling_count_optimizer_steps():
    adam = keras.optimizers.Adam(0.01, gradient_accumulation_steps=2)
    for optimizer, steps in [
        (adam, 16),
        (keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01)), 8),
    ]:
        model = _model(optimizer)
        with pytest.warns(UserWarning, match="ended at step 8 before"):
            _fit(model, PruningCallback(PolynomialDecay(0, 0.5, 8, 9)), steps)


def test_pruned_stay_pruned_and_smallest_go():
    model = _model()
    kernel = model.get_layer("hidden").kernel
    weights = np.arange(1, 201, dtype="float32").reshape(10, 20)
    weights[::2] *= -1
    kernel.assign(weights)
    callback = PruningCallback(ConstantSparsity(0.3, 0))
    callback.set_model(model)
    callback.on_train_begin()
    assert_array_equal(kernel.numpy() == 0, np.abs(weights) <= 60)
    with pytest.warns(UserWarning, match="kernel 'hidden/kernel' with 60 weights"):
        kernel.assign(np.full((10, 20), 7.0))  # a user sets pruned weights
    callback.on_train_begin()
    assert_array_equal(stf.get_masks(model)["hidden/kernel"], np.abs(weights) > 60)


def test_global_scope_ranks_all_weights_together():
    model = _model()
    model.get_layer("hidden").kernel.assign(np.full((10, 20), 2.0))
    model.get_layer("out").kernel.assign(np.ones((20, 5)))
    _run_at_once(model, PruningCallback(ConstantSparsity(0.3, 0), scope="global"))
    assert _zeros(model) == [0, 90]


def test_global_scope_warns_of_a_layer_without_weights():
    model = _model()
    model.get_layer("hidden").kernel.assign(np.full((10, 20), 2.0))
    with pytest.warns(UserWarning, match="no weight in .'out/kernel'"):
        _run_at_once(model, PruningCallback(ConstantSparsity(0.5, 0), scope="global"))


def test_exclude():
    model = _model()
    _run_at_once(model, PruningCallback(ConstantSparsity(0.5, 0), exclude="out"))
    assert _zeros(model) == [100, 0]


def test_own_criterion():
    model = _model()
    largest_first = PruningCallback(ConstantSparsity(0.5, 0), lambda w: -np.abs(w))
    before = np.abs(model.get_layer("hidden").kernel.numpy())
    twin = _model()
    twin.set_weights(model.get_weights())
    _run_at_once(model, largest_first)
    gone = model.get_layer("hidden").kernel.numpy() == 0
    stf.pruning.prune_one_shot(twin, 0.5, criterion=lambda w: -np.abs(w))
    np.testing.assert_array_equal(twin.get_layer("hidden").masks["kernel"], ~gone)
    assert before[gone].min() >= before[~gone].max()


def test_several_callbacks_each_prune_what_they_do_not_exclude():
    model = _model()
    hidden = PruningCallback(PolynomialDecay(0, 0.75, 2, 8, frequency=2), exclude="out")
    out = PruningCallback(ConstantSparsity(0.5, 4), np.square, exclude="hidden")
    history = _fit(model, [hidden, out], 4, epochs=3)
    sizes = [mask.size for mask in stf.get_masks(model).values()]
    assert _zeros(model) == [0.75 * sizes[0], 0.5 * sizes[1]]
    assert (hidden.sparsity, out.sparsity) == (0.75, 0.5)
    assert history.history["sparsity"][-1] == 0.5


def test_own_schedule():
    class Stairs:
        final_sparsity, end_step = 0.75, 4

        def __call__(self, step):
            return 1 - 0.5 ** min(step // 2, 2)

        def last_update(self, step):
            return min(step - step % 2, self.end_step)

    model = _model()
    history = _fit(model, PruningCallback(Stairs()), 2, epochs=3)
    assert history.history["sparsity"] == [0.5, 0.75, 0.75]


def _run_at_once(model, callback):
    callback.set_model(model)
    callback.on_train_begin()


def test_reports_to_history_and_progress_bar(capsys):
    model = _model()
    history = _fit(
        model, PruningCallback(PolynomialDecay(0, 0.5, 2, 8)), 4, epochs=3, verbose=2
    )
    assert history.history["sparsity"] == [
        pytest.approx(0.0), pytest.approx(0.5), pytest.approx(0.5)
    ]  # fmt: skip
    assert "sparsity: 0.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    "schedule, warns",
    [
        (PolynomialDecay(0, 0.5, 1, 10), False),
        (PolynomialDecay(0, 0.5, 1, 11), True),
        (PolynomialDecay(0, 0.5, 11, 11), True),
        (ConstantSparsity(0.5, 10), False),
        (ConstantSparsity(0.5, 11), True),
    ],
)
def test_warns_if_training_ends_first(schedule, warns, recwarn):
    _fit(_model(), PruningCallback(schedule), 10)
    messages = [str(w.message) for w in recwarn if w.category is UserWarning]
    assert any("the sparsity reached is" in m for m in messages) == warns


def test_slots_are_cleared_and_guards_lowered():
    model = _model(keras.optimizers.Adam(0.01, use_ema=True, amsgrad=True))
    _fit(model, PruningCallback(ConstantSparsity(0.5, 5)), 8)
    masks = stf.get_masks(model)
    optimizer = model.optimizer
    slots = [
        v for v in optimizer.variables if "hidden_kernel" in v.path.replace("/", "_")
    ]
    assert len(slots) == 4  # two moments, their maximum, the average
    for slot in slots:
        assert np.count_nonzero(slot.numpy()[~masks["hidden/kernel"]]) == 0
        assert np.count_nonzero(slot.numpy()) > 0
    for masked in stf.layers.masked.masked_kernels(model).values():
        assert model in masked.unguarded


def test_a_mask_set_after_unguarded_training_is_guarded():
    model = _model()
    _fit(model, PruningCallback(ConstantSparsity(0.5, 5)), 8)
    model.layers[0].set_masks(np.zeros((10, 20)))  # the momentum is not cleared
    _fit(model, None, 8)
    assert _zeros(model) == [200, 50]


def test_another_optimizer_after_unguarded_training_is_guarded():
    class Drift(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            ones = keras.ops.ones(variable.shape, variable.dtype)
            self.assign_add(variable, ones)

    model = _model()
    callback = PruningCallback(ConstantSparsity(0.5, 5))
    _fit(model, callback, 8)
    model.compile(Drift(), "mse")
    _fit(model, None, 3)
    assert _zeros(model) == [100, 50]
    _fit(model, callback, 3)
    assert _zeros(model) == [100, 50]


def test_unknown_optimizers_stay_guarded():
    class Own(keras.optimizers.SGD):
        pass

    model = _model(Own(0.01, momentum=0.9))
    _fit(model, PruningCallback(ConstantSparsity(0.5, 5)), 8)
    assert _zeros(model) == [100, 50]
    for masked in stf.layers.masked.masked_kernels(model).values():
        assert model not in masked.unguarded


def test_bad_arguments():
    with pytest.raises(TypeError, match="`schedule` must be a PolynomialDecay"):
        PruningCallback(0.5)
    schedule = ConstantSparsity(0.5, 0)
    with pytest.raises(ValueError, match="`scope` must be one of.*'model'"):
        PruningCallback(schedule, scope="model")
    with pytest.raises(TypeError, match="`criterion` must be callable.*'magnitude'"):
        PruningCallback(schedule, criterion="magnitude")
    with pytest.raises(TypeError, match="`criterion` must be callable.*'magnitude'"):
        stf.pruning.prune_one_shot(_model(), 0.5, criterion="magnitude")
    with pytest.raises(ValueError, match="`exclude` names the layer 'logits'.*hidden"):
        _fit(_model(), PruningCallback(schedule, exclude=["logits"]), 1)
    with pytest.raises(ValueError, match="`exclude` leaves no kernel"):
        _fit(_model(), PruningCallback(schedule, exclude=["hidden", "out"]), 1)
    plain = keras.Sequential([keras.Input((10,)), L.Dense(5)])
    plain.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"must have masked kernels.*stf|sparsify\("):
        _fit(plain, PruningCallback(schedule), 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_before_any_change(bad):
    model = _model()
    model.get_layer("out").kernel.assign(np.full((20, 5), bad))
    with pytest.raises(ValueError, match="finite weights.*100 NaN.*'out/kernel'"):
        _run_at_once(model, PruningCallback(ConstantSparsity(0.5, 0)))
    assert all(mask.all() for mask in stf.get_masks(model).values())


def test_criterion_that_returns_nonsense():
    model = _model()
    for criterion, message in [
        (lambda w: w[0], r"shape \(10, 20\).*shape \(20,\)"),
        (lambda w: w * np.nan, "200 of them not finite"),
    ]:
        with pytest.raises(ValueError, match=f"(?s)`criterion` must return.*{message}"):
            _run_at_once(model, PruningCallback(ConstantSparsity(0.5, 0), criterion))
    assert _zeros(model) == [0, 0]


def test_two_models_do_not_meet():
    one, other = _model(), _model()
    callback = PruningCallback(ConstantSparsity(0.5, 0))
    _run_at_once(one, callback)
    assert _zeros(other) == [0, 0]
    _run_at_once(other, callback)
    assert _zeros(one) == _zeros(other) == [100, 50]
