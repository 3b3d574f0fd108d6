"""What must hold for any model, masks, schedule and order of calls."""

import keras
import numpy as np
import pytest
from backends import BACKEND, assert_allclose, assert_array_equal, several_steps, values
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from random_models import plans

import sparsenet_tf as stf
from sparsenet_tf.layers.masked import masked_kernels

FEW = 5
MANY = 150  # `make slow`
# Examples take a second each: too long to look for the smallest one that fails.
FEW_SETTINGS = settings(
    max_examples=FEW,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
SCOPES = st.sampled_from(["layer", "global", "erk", "erdos_renyi"])
SPARSITIES = st.sampled_from([0.0, 0.1, 0.5, 0.77, 0.9, 0.99])
# A kernel may lose its last weight when all are ranked together.
pytestmark = pytest.mark.filterwarnings("ignore:Pruning left no weight")


def few_and_many(test):
    """Run a property with few examples, and as a slow test with many."""
    few, many = settings(FEW_SETTINGS), settings(FEW_SETTINGS, max_examples=MANY)

    @pytest.mark.parametrize(
        "run", [pytest.param(few, id="few"), pytest.param(many, id="many",
                                                          marks=pytest.mark.slow)]
    )  # fmt: skip
    def wrapped(run):
        run(test)()

    wrapped.__name__ = test.__name__
    return wrapped


def assert_masked_weights_are_zero(model):
    for path, masked in masked_kernels(model).items():
        assert not values(masked.kernel)[~masked.mask_value()].any(), path


class Watch(keras.callbacks.Callback):
    """Looks at every step whether masked weights are zero and none has returned."""

    def __init__(self):
        super().__init__()
        self.masks, self.steps = None, 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        assert_masked_weights_are_zero(self.model)
        masks = stf.get_masks(self.model)
        if self.masks is not None:
            for path, mask in masks.items():
                assert not (mask & ~self.masks[path]).any(), path
        self.masks = masks


@st.composite
def schedules(draw):
    begin = draw(st.integers(0, 3))
    end = begin + draw(st.integers(0, 5))
    low, high = sorted([draw(SPARSITIES), draw(SPARSITIES)])
    return stf.pruning.PolynomialDecay(
        low,
        high,
        begin,
        end,
        power=draw(st.sampled_from([1, 2.5, 3])),
        frequency=draw(st.integers(1, 3)),
    )


def random_masks(model, sparsity, seed=0):
    rng = np.random.default_rng(seed)
    return {
        path: rng.random(mask.shape) >= sparsity
        for path, mask in stf.get_masks(model).items()
    }


def expected_count(shapes, sparsity):
    size = sum(int(np.prod(shape)) for shape in shapes)
    return size - min(round(sparsity * size), size - 1)


@few_and_many
@given(plans(), schedules(), SCOPES)
def test_a_schedule_is_kept_to_the_weight(plan, schedule, scope):
    model = stf.sparsify(plan.build())
    x, y = plan.data(24)
    pruning = stf.pruning.PruningCallback(schedule, scope=scope)
    watch = Watch()
    steps = 12
    accumulated = 2 if plan.optimizer == "accumulating" else 1
    callbacks = [pruning, watch]
    model.fit(
        x, y, batch_size=4, epochs=2 * accumulated, callbacks=callbacks, verbose=0
    )
    assert watch.steps == steps * accumulated
    seen = sorted(pruning.updates)
    due = {schedule.last_update(t) for t in range(steps + 1)} - {None}
    assert set(seen) == due
    shapes = {path: m.shape for path, m in stf.get_masks(model).items()}
    before = 0.0
    for step in seen:
        found = pruning.updates[step]
        kept = {p: round((1 - s) * np.prod(shapes[p])) for p, s in found.items()}
        sparsity = schedule(step)
        if scope == "global":
            assert sum(kept.values()) == expected_count(shapes.values(), sparsity)
        elif scope == "layer":
            for path, count in kept.items():
                assert count == expected_count([shapes[path]], sparsity)
        now = 1 - sum(kept.values()) / sum(np.prod(s) for s in shapes.values())
        assert now >= before - 1e-12
        before = now


CALLS = st.lists(
    st.sampled_from(
        [
            "fit",
            "fit many",
            "own masks",
            "prune",
            "compile",
            "evaluate",
            "clone",
            "save",
        ]
    ),
    min_size=1,
    max_size=5,
)


@few_and_many
@given(plans(), CALLS, st.data())
def test_masks_hold_through_any_order_of_calls(plan, calls, data):
    import tempfile

    model = stf.sparsify(plan.build())
    model = stf.pruning.prune_one_shot(model, 0.5)
    x, y = plan.data()
    expected = stf.get_masks(model)
    for call in calls:
        if call == "fit":
            model.fit(x, y, batch_size=8, verbose=0)
        elif call == "fit many":
            model.compile(model.optimizer, "mse", steps_per_execution=several_steps(2))
            model.fit(x, y, batch_size=4, verbose=0)
        elif call == "own masks":
            masks = random_masks(model, data.draw(SPARSITIES))
            for path, masked in masked_kernels(model).items():
                masked.set_mask(masks[path])
            expected = masks
        elif call == "prune":
            stf.pruning.prune_one_shot(model, data.draw(SPARSITIES))
            now = stf.get_masks(model)
            assert not any((now[p] & ~expected[p]).any() for p in now)
            expected = now
        elif call == "compile":
            plan.compile(model)
        elif call == "evaluate":
            model.evaluate(x, y, verbose=0)
        elif call == "clone":
            clone = keras.models.clone_model(model)
            clone.set_weights(model.get_weights())
            plan.compile(clone)
            model = clone
        else:
            if not model.optimizer.built:  # of which Keras warns when it loads one
                model.optimizer.build(model.trainable_variables)
            with tempfile.TemporaryDirectory() as folder:
                model.save(f"{folder}/model.keras")
                model = keras.models.load_model(f"{folder}/model.keras")
        assert_masked_weights_are_zero(model)
        found = stf.get_masks(model)
        assert list(found) == list(expected)
        for path, mask in expected.items():
            assert_array_equal(found[path], mask)


@few_and_many
@given(plans(), SPARSITIES, st.integers(0, 2**31))
def test_masks_survive_what_is_made_of_a_model(plan, sparsity, seed):
    model = stf.sparsify(plan.build())
    masks = random_masks(model, sparsity, seed)
    model = stf.sparsify(stf.strip(model), masks)
    x, _ = plan.data(3)

    rebuilt = stf.rebuild(model, masks, seed)
    for path, mask in stf.get_masks(rebuilt).items():
        assert_array_equal(mask, masks[path])
    assert_masked_weights_are_zero(rebuilt)

    plain = stf.strip(model)
    assert not masked_kernels(plain)
    again = stf.sparsify(plain, masks)
    for path, masked in masked_kernels(again).items():
        original = masked_kernels(model)[path]
        assert_array_equal(masked.kernel, original.kernel)
    assert_array_equal(plain(x), model(x))


@few_and_many
@given(plans(), SPARSITIES, st.integers(0, 2**31))
def test_to_dense_of_to_sparse_is_the_model(plan, sparsity, seed):
    model = stf.sparsify(plan.build())
    masks = random_masks(model, sparsity, seed)
    model = stf.sparsify(stf.strip(model), masks)
    x, _ = plan.data(3)
    back = stf.to_dense(stf.to_sparse(model))
    assert_allclose(back(x), model(x), rtol=1e-5, atol=1e-5)
    plain = {p: values(v) for p, v in stf.layers.tree.kernels(back).items()}
    for path, masked in masked_kernels(model).items():
        if path in plain:
            assert_array_equal(plain[path], masked.kernel)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the compiled loop is TensorFlow's")
@pytest.mark.slow
def test_the_compiled_loop_keeps_them_too():
    @FEW_SETTINGS
    @given(plans(), schedules())
    def check(plan, schedule):
        model = stf.sparsify(plan.build())
        x, y = plan.data(24)
        pruning = stf.pruning.PruningCallback(schedule)
        steps = 16 if plan.optimizer == "accumulating" else 8
        stf.training.fit(
            model,
            x,
            y,
            steps=steps,
            batch_size=4,
            evaluate_every=4,
            callbacks=[pruning],
        )
        assert_masked_weights_are_zero(model)
        due = {schedule.last_update(t) for t in range(9)} - {None}
        assert set(pruning.updates) == due

    check()
