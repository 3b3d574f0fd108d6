"""Plain descent in one pass over each kernel: the same numbers, only where it may."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import sparsenet_tf as stf
from sparsenet_tf.kernels import native
from sparsenet_tf.layers.masked import masked_kernels
from sparsenet_tf.training import fit

L = keras.layers
SGD = keras.optimizers.SGD
HAS_COMPILER = any(map(shutil.which, ("c++", "g++", "clang++")))
SHAPES = [(), (0,), (1,), (7,), (3, 5, 7), (784, 300), (1000, 1000)]
SPECIAL = np.array([np.inf, -np.inf, np.nan, -0.0, 0.0, 1e-30, 3e38], "float32")


@pytest.fixture
def ops():
    """Our operations, which the installation has built if there is a compiler."""
    if not HAS_COMPILER:
        pytest.skip("no C++ compiler here")
    assert native.load_ops() is not None, (
        "not built: run `python -m sparsenet_tf.kernels.native.build`"
    )
    if not native.has_only_cpus():
        pytest.skip("not on the CPU")
    return native.load_ops()


@pytest.fixture
def taken(ops, monkeypatch):
    """Shapes of the variables whose updates were traced to take one pass."""
    found = {"masked": [], "plain": []}
    masked, plain = (
        ops.sparsenet_masked_descent,
        tf.raw_ops.ResourceApplyGradientDescent,
    )

    def masked_spy(value, **others):
        found["masked"].append(tuple(value.shape))
        return masked(value=value, **others)

    def plain_spy(delta, **others):
        found["plain"].append(tuple(delta.shape))
        return plain(delta=delta, **others)

    monkeypatch.setattr(ops, "sparsenet_masked_descent", masked_spy)
    monkeypatch.setattr(tf.raw_ops, "ResourceApplyGradientDescent", plain_spy)
    return found


def switch_off(monkeypatch):
    name = "sparsenet_tf.training.fused_update.native_is_usable"
    monkeypatch.setattr(name, lambda model: False)


# The operation.


def tensors(shape, seed=0):
    rng = np.random.default_rng(seed)
    value, gradient = (np.asarray(rng.normal(size=shape), "float32") for _ in range(2))
    mask = np.asarray(rng.random(shape) < 0.5, "float32")
    n = len(SPECIAL)
    if value.size >= 4 * n:  # each special value once kept and once masked, in both
        value.flat[: 2 * n] = gradient.flat[2 * n : 4 * n] = np.tile(SPECIAL, 2)
        mask.flat[: 4 * n] = np.tile(np.repeat([0, 1], n), 2)
    return value, gradient, mask


def assert_same_bits(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), nan)
    # Which NaN it is depends on the order of the operands, of which nobody promises.
    found, expected = (np.where(nan, 0, a).astype("float32") for a in (found, expected))
    np.testing.assert_array_equal(found.view("uint32"), expected.view("uint32"))


@pytest.mark.parametrize("rate", [0.1, 0.0, -3e38])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_its_formula_to_the_bit(ops, shape, rate):
    value, gradient, mask = tensors(shape)
    with np.errstate(all="ignore"):
        step = np.float32(rate) * (gradient * mask)
        expected = value - step
    found = ops.sparsenet_masked_descent(
        value=value, gradient=gradient, mask=mask, rate=rate
    )
    assert_same_bits(found, expected)
    usual = tf.constant(value) - rate * (tf.constant(gradient) * mask)
    assert_same_bits(found, usual)


def test_tiny_numbers_are_flushed_as_tensorflow_flushes_them(ops):
    value, gradient = (np.full((1000, 1000), x, "float32") for x in (1e-45, 1e-38))
    mask = np.ones_like(value)
    found = ops.sparsenet_masked_descent(value, gradient, mask, rate=0.1)
    assert_same_bits(found, tf.constant(value) - 0.1 * (tf.constant(gradient) * mask))


@pytest.mark.parametrize("shape", [(), (7,), (784, 300), (1000, 1000)], ids=str)
def test_leaves_its_inputs_as_they_were(ops, shape):
    arrays = tensors(shape)
    inputs = [tf.constant(a) for a in arrays]
    ops.sparsenet_masked_descent(*inputs, rate=0.1)
    for tensor, array in zip(inputs, arrays, strict=True):
        assert_same_bits(tensor, array)


def test_leaves_a_gradient_that_another_reads(ops):
    value, gradient, mask = (np.ones((100, 100), "float32") for _ in range(3))
    variable = tf.Variable(value)

    @tf.function
    def step(gradient):
        gradient = gradient * 3.0  # not the caller's: its memory may be taken
        new = ops.sparsenet_masked_descent(
            value=variable, gradient=gradient, mask=mask, rate=0.5
        )
        with tf.control_dependencies([new]):
            return new, gradient + 0.0, variable.read_value()

    new, after, unmoved = step(gradient)
    np.testing.assert_array_equal(new, np.float32(-0.5))
    np.testing.assert_array_equal(after, np.float32(3))
    np.testing.assert_array_equal(unmoved, np.float32(1))


@pytest.mark.parametrize("which", [1, 2])
@pytest.mark.parametrize("shape", [(3, 2), (6,), (2, 3, 1), ()], ids=str)
def test_refuses_another_shape(ops, which, shape):
    inputs = [np.ones((2, 3), "float32") for _ in range(3)]
    inputs[which] = np.ones(shape, "float32")
    received = r"\[" + ",".join(map(str, shape)) + r"\]"
    text = rf"`gradient` and `mask` must have the value's shape \[2,3\].*{received}"
    with pytest.raises(tf.errors.InvalidArgumentError, match=text):
        ops.sparsenet_masked_descent(*inputs, rate=0.1)
    traced = tf.function(lambda *args: ops.sparsenet_masked_descent(*args, rate=0.1))
    with pytest.raises(ValueError, match="[Ss]hape"):
        traced(*inputs)


@pytest.mark.parametrize("rate", [[0.1, 0.2], []])
def test_refuses_several_rates(ops, rate):
    one = np.ones((2,), "float32")
    with pytest.raises(tf.errors.InvalidArgumentError, match="`rate` must be a scalar"):
        ops.sparsenet_masked_descent(one, one, one, rate=rate)


def test_refuses_another_dtype(ops):
    one = tf.ones((2,), tf.float64)
    with pytest.raises((TypeError, tf.errors.InvalidArgumentError), match="float"):
        ops.sparsenet_masked_descent(one, one, one, rate=0.1)


# In training.


def data(rows=50):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, 6)).astype("float32"), rng.integers(0, 3, rows)


def small(optimizer=None, sparse=True, wrap=None, first=None, **options):
    keras.utils.set_random_seed(0)
    layers = [L.Dense(8, "relu", name="a", **(first or {})), L.Dense(3, name="b")]
    model = keras.Sequential([keras.Input((6,)), *layers])
    if sparse:
        model = stf.sparsify(model)
    if wrap is not None:
        model = wrap(model.inputs[0], model.outputs[0])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or SGD(0.1), loss, **options)
    return model


def train(model, steps=12, prune=True, **arguments):
    callbacks = list(arguments.pop("callbacks", ()))
    if prune and masked_kernels(model):
        schedule = stf.pruning.PolynomialDecay(0.0, 0.75, 2, 9, frequency=3)
        callbacks.append(stf.pruning.PruningCallback(schedule))
    arguments = {"batch_size": 10, "evaluate_every": 5, **arguments}
    fit(model, *data(), steps=steps, callbacks=callbacks, **arguments)
    return model


def assert_same_weights(model, other):
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def assert_masked_are_zero(model, sparsity=0.75):
    for masked in masked_kernels(model).values():
        mask, value = masked.mask_value(), masked.kernel_value()
        assert mask.mean() == pytest.approx(1 - sparsity, abs=0.02)
        assert not value[~mask].any() and value[mask].all()


def assert_nothing_is_left(model):
    assert "update_step" not in vars(model.optimizer)
    assert model.optimizer.update_step.__func__ is type(model.optimizer).update_step
    for masked in masked_kernels(model).values():
        assert not masked.update_masks and masked.kernel.constraint is not None


@pytest.fixture(scope="module")
def warm():
    train(small())  # The first training in a process can differ in a last bit.


KERNELS, BIASES = {(6, 8), (8, 3)}, {(8,), (3,)}


@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "plain"])
def test_trains_to_the_same_bits_without(warm, taken, monkeypatch, sparse):
    before = small(sparse=sparse).get_layer("a").kernel.numpy()
    model = train(small(sparse=sparse))
    assert set(taken["masked"]) == (KERNELS if sparse else set())
    assert set(taken["plain"]) == (BIASES if sparse else KERNELS | BIASES)
    assert_nothing_is_left(model)
    switch_off(monkeypatch)
    taken["masked"].clear(), taken["plain"].clear()
    other = train(small(sparse=sparse))
    assert taken == {"masked": [], "plain": []}
    assert_same_weights(model, other)
    moved = model.get_layer("a").kernel.numpy() - before
    assert np.abs(moved[moved != -before]).max() > 0.01
    if sparse:
        assert_masked_are_zero(model)
        assert_masked_are_zero(other)


class OwnDescent(SGD):
    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient, variable, learning_rate / 2)


class OwnStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


NOT_TAKEN = {
    "momentum": lambda: {"optimizer": SGD(0.1, momentum=0.9)},
    "nesterov": lambda: {"optimizer": SGD(0.1, momentum=0.9, nesterov=True)},
    "clipnorm": lambda: {"optimizer": SGD(0.1, clipnorm=0.1)},
    "clipvalue": lambda: {"optimizer": SGD(0.1, clipvalue=0.01)},
    "global_clipnorm": lambda: {"optimizer": SGD(0.1, global_clipnorm=0.1)},
    "weight_decay": lambda: {"optimizer": SGD(0.1, weight_decay=0.1)},
    "use_ema": lambda: {"optimizer": SGD(0.1, use_ema=True)},
    "accumulation": lambda: {"optimizer": SGD(0.1, gradient_accumulation_steps=2)},
    "loss_scale_factor": lambda: {"optimizer": SGD(0.1, loss_scale_factor=4.0)},
    "adam": lambda: {"optimizer": keras.optimizers.Adam(0.01)},
    "subclass": lambda: {"optimizer": OwnDescent(0.1)},
    "loss scale": lambda: {"optimizer": keras.optimizers.LossScaleOptimizer(SGD(0.1))},
    "xla": lambda: {"jit_compile": True},
    "train_step": lambda: {"wrap": OwnStep},
}


@pytest.mark.parametrize("name", NOT_TAKEN)
@pytest.mark.often("momentum", "clipnorm", "use_ema", "adam", "subclass", "train_step")
def test_is_not_taken_where_a_step_is_more(taken, name):
    steps = 24 if name == "accumulation" else 12
    model = train(small(**NOT_TAKEN[name]()), steps)
    assert taken == {"masked": [], "plain": []}
    assert_masked_are_zero(model)


def test_a_layers_own_constraint_holds(warm, taken, monkeypatch):
    def new():
        constraint = keras.constraints.MaxNorm(0.25)
        return small(SGD(0.5), first={"kernel_constraint": constraint})

    model = train(new())
    assert (6, 8) in taken["masked"]
    assert_masked_are_zero(model)
    norms = np.linalg.norm(model.get_layer("a").kernel.numpy(), axis=0)
    assert norms.max() == pytest.approx(0.25, rel=1e-5)
    switch_off(monkeypatch)
    assert_same_weights(model, train(new()))


@pytest.mark.parametrize("kind", ["L2", "OrthogonalRegularizer"])
def test_a_layers_own_regularizer_counts(warm, taken, monkeypatch, kind):
    def new():
        regularizer = getattr(keras.regularizers, kind)(0.1)
        return small(first={"kernel_regularizer": regularizer})

    model = train(new())
    assert (6, 8) in taken["masked"]
    assert_masked_are_zero(model)
    switch_off(monkeypatch)
    assert_same_weights(model, train(new()))


@pytest.mark.parametrize("where", ["callback", "update", "loss"])
def test_nothing_is_left_when_fit_raises(ops, monkeypatch, where):
    def fail(*args, **kwargs):
        raise RuntimeError("stop here")

    model, callbacks = small(), []
    if where == "callback":
        callbacks = [keras.callbacks.LambdaCallback(on_train_batch_end=fail)]
    elif where == "update":
        monkeypatch.setattr(ops, "sparsenet_masked_descent", fail)
    else:
        optimizer = model.optimizer
        optimizer.build(model.trainable_variables)
        monkeypatch.setattr(optimizer, "apply", fail)
    with pytest.raises(RuntimeError, match="stop here"):
        train(model, callbacks=callbacks)
    monkeypatch.undo()
    assert_nothing_is_left(model)
    train(model)
    assert_masked_are_zero(model)
    assert_nothing_is_left(model)


def test_a_mask_set_by_a_callback_holds_from_then_on(taken):
    first, second = np.random.default_rng(0).random((2, 6, 8)) < 0.5
    seen = []

    class Change(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            layer = self.model.get_layer("a")
            seen.append(layer.kernel.numpy())
            if epoch in (0, 2):
                layer.set_masks(second if epoch else first)

    model = small()
    train(model, 25, prune=False, callbacks=[Change()])
    assert set(taken["masked"]) == KERNELS
    assert seen[0].all()
    for value in seen[1:3]:
        assert not value[~first].any() and value[first].all()
    for value in seen[3:]:
        # A ReLU's weights of the first mask begin at zero and move again.
        assert not value[~second].any() and value[second & first].all()
    assert seen[4][second & ~first].any()
    assert model.get_layer("b").kernel.numpy().all()


def descent(rate, callbacks=(), steps=6):
    """Train with a loss whose gradient is 1/2 everywhere; return how far it went."""
    mask = np.array([[1, 0], [0, 1], [1, 1]], bool)
    model = keras.Sequential([keras.Input((3,)), L.Dense(2, use_bias=False, name="a")])
    model = stf.sparsify(model, {"a/kernel": mask})
    begin = model.get_layer("a").kernel.numpy()
    loss = lambda y, found: keras.ops.mean(found, axis=-1)  # noqa: E731
    model.compile(SGD(rate), loss)
    x = np.ones((8, 3), "float32")
    arguments = dict(batch_size=4, evaluate_every=2, callbacks=callbacks)
    fit(model, x, x[:, :2], steps=steps, **arguments)
    moved = begin - model.get_layer("a").kernel.numpy()
    assert not moved[~mask].any()
    return moved[mask] / 0.5


def test_a_schedule_of_the_learning_rate_is_used(taken):
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [0, 3], [0.5, 0.25, 0.125]
    )
    rates = 0.5 + 0.25 * 3 + 0.125 * 2
    np.testing.assert_allclose(descent(schedule), rates, rtol=1e-5)
    assert taken["masked"]


def test_a_learning_rate_that_a_callback_sets_is_used(taken):
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: 0.5 / 4**epoch)
    rates = 2 * (0.5 + 0.125 + 0.03125)
    np.testing.assert_allclose(descent(0.1, [scheduler]), rates, rtol=1e-5)
    assert taken["masked"]


# dtype policy: shapes of the kernels that take the masked pass.
POLICIES = {
    "float64": set(),
    "float16": set(),
    "bfloat16": set(),
    "mixed_float16": set(),  # Keras scales its loss.
    "mixed_bfloat16": KERNELS,
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.often("float64", "mixed_bfloat16")
def test_other_dtypes_train(warm, taken, monkeypatch, policy):
    keras.config.set_dtype_policy(policy)
    model = small()
    x, y = data()
    before = model.evaluate(x, y, verbose=0)
    train(model, 40)
    assert set(taken["masked"]) == POLICIES[policy]
    assert bool(taken["plain"]) == bool(POLICIES[policy])
    assert_masked_are_zero(model)
    assert model.evaluate(x, y, verbose=0) < before - 0.05
    if taken["masked"]:
        switch_off(monkeypatch)
        assert_same_weights(model, train(small(), 40))


def test_only_float32_variables_take_it(taken):
    model = small(first={"dtype": "float64"})
    train(model)
    assert set(taken["masked"]) == {(8, 3)} and set(taken["plain"]) == {(3,)}
    assert model.get_layer("a").kernel.dtype == "float64"
    assert_masked_are_zero(model)


def test_a_kernel_used_twice(warm, taken, monkeypatch):
    def new():
        keras.utils.set_random_seed(0)
        x, dense = keras.Input((6,)), L.Dense(6, "tanh", name="a")
        model = keras.Model(x, L.Dense(4, name="b")(dense(dense(x))))
        model = stf.sparsify(model)
        model.compile(SGD(0.1), "sparse_categorical_crossentropy")
        return model

    model = train(new())
    assert (6, 6) in taken["masked"]
    assert_masked_are_zero(model)
    switch_off(monkeypatch)
    assert_same_weights(model, train(new()))


@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "plain"])
def test_an_embedding(taken, monkeypatch, sparse):
    def run():
        keras.utils.set_random_seed(0)
        layers = [L.Embedding(20, 8, name="a"), L.Flatten(), L.Dense(3, name="b")]
        model = keras.Sequential([keras.Input((6,), dtype="int32"), *layers])
        model = stf.sparsify(model) if sparse else model
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(SGD(0.1), loss)
        if sparse:
            stf.pruning.prune_one_shot(model, 0.5)
        x = np.random.default_rng(0).integers(0, 20, (50, 6)).astype("int32")
        fit(model, x, data()[1], steps=12, batch_size=10)
        return model

    model = run()
    assert (20, 8) in taken["masked" if sparse else "plain"]
    switch_off(monkeypatch)
    other = run()
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


# Momentum in `fit`, and the optimizer of Keras' fit after it; None for the same one.
AFTERWARDS = {
    "plain, then as it is": (0.0, None),
    "plain, then momentum": (0.0, lambda: SGD(0.1, momentum=0.9)),
    "plain, then Adam": (0.0, lambda: keras.optimizers.Adam(0.01)),
    "momentum, then as it is": (0.9, None),
}


@pytest.mark.parametrize("name", AFTERWARDS)
@pytest.mark.often("plain, then Adam")
def test_keras_fit_afterwards_trains_as_ever(warm, ops, monkeypatch, name):
    momentum, afterwards = AFTERWARDS[name]
    x, y = data()

    def run():
        model = train(small(SGD(0.1, momentum=momentum)))
        if afterwards is not None:
            model.compile(afterwards(), model.loss)
        model.fit(x, y, batch_size=10, epochs=2, shuffle=False, verbose=0)
        assert_masked_are_zero(model)
        return model

    model = run()
    assert_nothing_is_left(model)
    switch_off(monkeypatch)
    assert_same_weights(model, run())


def test_keras_fit_with_momentum_and_fit_take_turns(taken):
    x, y = data()
    model = train(small())
    for optimizer in (SGD(0.1, momentum=0.9), SGD(0.1)):
        model.compile(optimizer, model.loss)
        model.fit(x, y, batch_size=10, verbose=0)
        taken["masked"].clear()
        train(model, prune=False)
        assert bool(taken["masked"]) == (optimizer.momentum == 0)
        assert_masked_are_zero(model)
        assert_nothing_is_left(model)
