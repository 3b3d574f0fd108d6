"""Dynamic sparse training of `SparseDense` layers, which hold their nonzeros alone."""

import tracemalloc

import keras
import numpy as np
import pytest
from backends import (
    BACKEND,
    assert_allclose,
    assert_array_equal,
    separate_arrays,
    several_steps,
    values,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsenet_tf as stf
from sparsenet_tf.layers import SparseConv2D, SparseDense
from sparsenet_tf.pruning import SET, CosineDecay, RigL, dense_gradients
from sparsenet_tf.pruning.connections import find_connections
from sparsenet_tf.pruning.dense_gradients import (
    column_slices,
    highest_gradients,
    highest_of_slices,
)
from sparsenet_tf.pruning.slots import slots_of
from sparsenet_tf.topology import SparsePattern

L = keras.layers
ON_TENSORFLOW = pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")
STEPS, BATCH = 24, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(BATCH * STEPS, 10)).astype("float32")
Y = RNG.normal(size=(BATCH * STEPS, 3)).astype("float32")
SCHEDULE = CosineDecay(0.6, end_step=20, frequency=3)
FORMS = ("auto", "native", "csr", "dense") if BACKEND == "tensorflow" else ("auto",)


def at_random(weights):
    return np.random.default_rng(weights.size).random(weights.shape)


def build_masked(optimizer=None):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((10,)),
            L.Dense(16, "relu", name="first"),
            L.Dense(8, "tanh", name="second"),
            L.Dense(3, name="last"),
        ]
    )
    model = stf.pruning.prune_one_shot(model, 0.7, at_random, scope="erk")
    model.compile(optimizer or keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    model.optimizer.build(model.trainable_variables)  # or steps are traced twice
    separate_arrays(model)
    return model


def build(optimizer=None, layers="all"):
    return stf.to_sparse(build_masked(optimizer), layers)


def method(kind, schedule=SCHEDULE, **options):
    return SET(schedule, **options) if kind is SET else RigL(schedule, X, Y, **options)


def fit(model, *callbacks, begin=0, end=STEPS, **options):
    part = slice(BATCH * begin, BATCH * end)
    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **options}
    return model.fit(X[part], Y[part], callbacks=list(callbacks), **options)


def sparse_layers(model):
    return [layer for layer in model.layers if isinstance(layer, SparseDense)]


def kernels(model):
    return [
        layer.dense_kernel() if isinstance(layer, SparseDense) else values(layer.kernel)
        for layer in model.layers
    ]


def masks(model):
    return [
        layer.dense_mask() if isinstance(layer, SparseDense) else layer.masks["kernel"]
        for layer in model.layers
    ]


class Compare(keras.callbacks.Callback):
    """Keeps dense kernels and masks after each step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(list(zip(kernels(self.model), masks(self.model), strict=True)))


class New(keras.callbacks.Callback):
    """Checks that new connections begin at zero, with slots of zero."""

    def on_train_begin(self, logs=None):
        self.before = [layer.pattern for layer in sparse_layers(self.model)]
        self.seen = 0

    def on_train_batch_end(self, batch, logs=None):
        layers = sparse_layers(self.model)
        for before, layer in zip(self.before, layers, strict=True):
            assert layer.pattern.num_connections == before.num_connections
            new = before.find(layer.pattern) < 0
            self.seen += new.sum()
            slots = [slot for _, slot in slots_of(self.model.optimizer, layer.kernel)]
            assert len(slots) == 2  # Adam's, for those that are not new as well
            for variable in (layer.kernel, *slots):
                assert not values(variable)[new].any()
                assert values(variable)[~new].any()
        self.before = [layer.pattern for layer in layers]


# A layer whose pattern changes.


@pytest.mark.parametrize("implementation", FORMS)
def test_set_pattern_keeps_weights(implementation):
    rng = np.random.default_rng(1)
    masks = [np.zeros(63, bool) for _ in range(3)]
    for mask in masks:
        mask[rng.choice(63, 15, replace=False)] = True
    masks = [mask.reshape(9, 7) for mask in masks]
    layer = SparseDense(masks[0], implementation=implementation)
    x = rng.normal(size=(5, 9)).astype("float32")
    layer(x)
    kernel = layer.dense_kernel()
    if BACKEND == "tensorflow":
        import tensorflow as tf

        layer.let_pattern_change()
        call = tf.function(layer)
    else:
        call = layer
    for mask in masks[1:]:
        source = layer.set_pattern(mask)
        kernel = kernel * mask
        assert_array_equal(layer.dense_kernel(), kernel)
        assert_array_equal(layer.dense_mask(), mask)
        assert (source < 0).sum() == 15 - np.count_nonzero(kernel)
        assert_allclose(call(x), x @ kernel, atol=1e-6)
        layer.kernel.assign(rng.normal(size=15))
        kernel = layer.dense_kernel()
        assert_allclose(call(x), x @ kernel, atol=1e-5)
    if BACKEND == "tensorflow":
        assert call.experimental_get_tracing_count() == 1


def test_set_pattern_refuses():
    layer = SparseDense(np.eye(3, dtype=bool), name="layer")
    with pytest.raises(ValueError, match="'layer' must be built"):
        layer.set_pattern(np.eye(3, dtype=bool))
    layer.build((None, 3))
    for mask in (np.ones((3, 3), bool), np.eye(3, 4, dtype=bool)):
        with pytest.raises(ValueError, match="`pattern` must be of the sizes of layer"):
            layer.set_pattern(mask)


def test_a_changed_pattern_is_saved_with_the_model(tmp_path):
    model = build()
    fit(model, SET(SCHEDULE))
    predictions = values(model(X))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert_allclose(again(X), predictions, rtol=1e-6)
    for ours, theirs in zip(sparse_layers(again), sparse_layers(model), strict=True):
        assert ours.pattern == theirs.pattern
    model.save_weights(tmp_path / "changed.weights.h5")
    other = build()
    other.load_weights(tmp_path / "changed.weights.h5")
    assert_allclose(other(X), predictions, rtol=1e-6)


def test_weights_of_a_pattern_that_never_changed_are_saved_as_before(tmp_path):
    layer = build().layers[0]
    store = {}
    layer.save_own_variables(store)
    assert list(store) == ["0", "1", "pattern"]
    other = SparseDense(np.roll(layer.dense_mask(), 1, axis=0))
    other.build((None, 10))
    with pytest.raises(ValueError, match="must be of its own pattern"):
        other.load_own_variables(store)


# As masked layers.


@pytest.mark.parametrize("kind", [SET, RigL])
@pytest.mark.parametrize("layers", ["all", 0.25])
@pytest.mark.often("all-SET", "0.25-RigL")
def test_it_goes_as_with_masks(kind, layers):
    seen = []
    for model in (build_masked(), build(layers=layers)):
        compare = Compare()
        callback = method(kind, batch_size=32) if kind is RigL else method(kind)
        fit(model, callback, compare)
        seen.append((compare.seen, callback.updates, callback.sparsity))
    assert len(sparse_layers(model)) == (3 if layers == "all" else 1)
    for masked, sparse in zip(seen[0][0], seen[1][0], strict=True):
        for ours, theirs in zip(sparse, masked, strict=True):
            assert_array_equal(ours[1], theirs[1])
            assert_allclose(ours[0], theirs[0], atol=1e-5)
    assert seen[0][1:] == seen[1][1:]
    assert sum(sum(new.values()) for new in callback.updates.values()) > 50


@pytest.mark.parametrize("kind", [SET, RigL])
def test_new_connections_begin_at_zero(kind):
    model, new = build(keras.optimizers.Adam(0.01)), New()
    fit(model, method(kind), new)
    assert new.seen > 50


@pytest.mark.parametrize("implementation", FORMS)
@pytest.mark.often("auto", "csr")
def test_all_implementations(implementation):
    model = build()
    for layer in sparse_layers(model):
        layer.choose_implementation(implementation)
    model.compile(keras.optimizers.SGD(0.05), "mse", jit_compile=False)
    callback = RigL(SCHEDULE, X, Y)
    fit(model, callback, validation_data=(X, Y))
    assert list(callback.updates) == [3, 6, 9, 12, 15, 18]
    dense = stf.strip(model)
    loss = model.evaluate(X, Y, verbose=0)  # traced before the last updates
    assert loss == pytest.approx(np.mean((values(dense(X)) - Y) ** 2), rel=1e-5)


def test_an_interrupted_training_goes_on_as_it_would_have(tmp_path):
    whole = build()
    fit(whole, RigL(SCHEDULE, X, Y))
    model = build()
    fit(model, RigL(SCHEDULE, X, Y), end=9)
    model.save(tmp_path / "model.keras")
    resumed = keras.saving.load_model(tmp_path / "model.keras")
    separate_arrays(resumed)
    fit(resumed, RigL(SCHEDULE, X, Y), begin=9)
    for ours, theirs in zip(
        [*resumed.variables, *resumed.optimizer.variables],
        [*whole.variables, *whole.optimizer.variables],
        strict=True,
    ):
        assert_array_equal(ours, theirs)
    for ours, theirs in zip(sparse_layers(resumed), sparse_layers(whole), strict=True):
        assert ours.pattern == theirs.pattern


def test_backup_and_restore(tmp_path):
    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=5)

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 12:
                self.patterns = [layer.pattern for layer in sparse_layers(self.model)]
                raise InterruptedError

    model = build()
    with pytest.raises(InterruptedError):
        fit(model, SET(SCHEDULE), backup(), Stop())
    again, callback = build(), SET(SCHEDULE)
    fit(again, callback, backup())
    assert [step for step in callback.updates if step <= 12] == [12]


def test_several_steps_in_an_execution():
    together = several_steps(4)
    model, callback = build(), RigL(SCHEDULE, X, Y)
    model.compile("sgd", "mse", steps_per_execution=together)
    fit(model, callback)
    late = [-(-step // together) * together for step in (3, 6, 9, 12, 15, 18)]
    assert list(callback.updates) == list(dict.fromkeys(late))


@ON_TENSORFLOW
def test_updates_do_not_trace_again():
    traced = []

    def loss(y, predicted):
        traced.append(1)
        return keras.ops.mean((predicted - y) ** 2, axis=-1)

    counts = []
    for callbacks in ([], [SET(SCHEDULE)]):
        model = build()
        model.compile(keras.optimizers.SGD(0.05), loss)
        traced.clear()
        fit(model, *callbacks)
        counts.append(len(traced))
    assert len(callbacks[0].updates) == 6
    assert counts[0] == counts[1]


@ON_TENSORFLOW
@pytest.mark.parametrize("make", [build_masked, build])
@pytest.mark.parametrize("kind", [SET, RigL])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.often("0.0-SET-build", "0.9-RigL-build_masked")
def test_the_compiled_loop(make, kind, momentum):
    model = make(keras.optimizers.SGD(0.05, momentum=momentum))
    counts = [mask.sum() for mask in masks(model)]
    callback = method(kind)
    history = stf.training.fit(
        model, X, Y, steps=24, batch_size=4, evaluate_every=8, callbacks=[callback]
    )
    assert list(callback.updates) == [3, 6, 9, 12, 15, 18]
    assert history.history["sparsity"] == [pytest.approx(callback.sparsity)] * 3
    assert [mask.sum() for mask in masks(model)] == counts
    for kernel, mask in zip(kernels(model), masks(model), strict=True):
        assert not kernel[~mask].any()
    # Another time in parts: the loop's order of the data goes by the step.
    parts, callback = make(keras.optimizers.SGD(0.05, momentum=momentum)), method(kind)
    for steps in (5, 4, 15):
        stf.training.fit(parts, X, Y, steps=steps, batch_size=4, callbacks=[callback])
    for ours, theirs in zip(parts.variables, model.variables, strict=True):
        assert_array_equal(ours, theirs)


@ON_TENSORFLOW
def test_a_trained_model_is_exported(tmp_path):
    import tensorflow as tf

    model = build()
    fit(model, SET(SCHEDULE))
    for layer in sparse_layers(model):
        layer.choose_implementation("dense")  # a SavedModel has no operations of ours
    model.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    assert_allclose(loaded.serve(X), model(X), atol=1e-6)


def test_other_sparse_layers_stay():
    mask = RNG.random((3, 3, 1, 4)) < 0.5
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            SparseConv2D(mask, 3),
            L.Flatten(),
            SparseDense(RNG.random((64, 3)) < 0.2),
        ]
    )
    model.compile("sgd", "mse")
    assert list(find_connections(model)) == [f"{model.layers[2].name}/kernel"]
    x, y = np.ones((8, 6, 6, 1), "float32"), np.ones((8, 3), "float32")
    callback = RigL(CosineDecay(0.5, 5, frequency=1), x, y)
    model.fit(x, y, batch_size=2, verbose=0, callbacks=[callback])
    assert sum(callback.updates[1].values()) > 0
    assert_array_equal(model.layers[0].dense_mask(), mask)


# Gradients in slices.


def test_gradients_of_a_layer_used_twice_after_dropout():
    keras.utils.set_random_seed(0)
    mask = RNG.random((5, 5)) < 0.4
    inputs, results = keras.Input((7, 5)), []
    shared = SparseDense(mask, "tanh", name="shared")
    outputs = shared(L.Dropout(0.4, seed=1)(shared(inputs)))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    x, y = RNG.normal(size=(2, 6, 7, 5)).astype("float32")
    for form in (model, stf.to_dense(model)):
        connections = find_connections(form)
        taken = {path: c.positions() for path, c in connections.items()}
        counts = dict.fromkeys(connections, 4)
        [found] = highest_gradients(form, connections, taken, counts, (x, y)).values()
        results.append(found)
    assert_array_equal(*results)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_slices_find_what_the_whole_has(data):
    rows, columns, examples = (data.draw(st.integers(1, 6)) for _ in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    x = rng.integers(-2, 3, (examples, rows)).astype("float32")  # with many ties
    z = rng.integers(-2, 3, (examples, columns)).astype("float32")
    size = rows * columns
    taken = np.flatnonzero(rng.random(size) < 0.4)
    count = data.draw(st.integers(0, size - taken.size))
    scores = np.abs(x.T @ z).ravel()
    free = np.setdiff1d(np.arange(size), taken)
    expected = sorted(free[np.argsort(-scores[free], kind="stable")[:count]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense_gradients, "SLICE_SIZE", data.draw(st.integers(1, 40)))
        calls = [(keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(z))]
        slices = list(column_slices("path", calls, (rows, columns), taken))
        widths = [block.shape[1] for _, _, block in slices]
        assert max(widths) * rows <= max(dense_gradients.SLICE_SIZE, rows)
        assert sum(widths) == columns
        assert highest_of_slices(slices, count).tolist() == expected


def test_no_dense_matrix_is_made():
    size = 4096  # whose dense matrix has 64 MiB
    pattern = SparsePattern.random(size, size, 8, seed=0)
    model = keras.Sequential([keras.Input((size,)), SparseDense(pattern, name="s")])
    model.compile("sgd", "mse")
    x = RNG.normal(size=(4, size)).astype("float32")
    connections = find_connections(model)
    taken = {path: c.positions() for path, c in connections.items()}
    widths = []

    def slices(*args):
        for begin, columns, block in column_slices(*args):
            widths.append(block.shape[1])
            yield begin, columns, block

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense_gradients, "column_slices", slices)
        tracemalloc.start()
        try:
            highest_gradients(model, connections, taken, {"s/kernel": 10_000}, (x, x))
            peak = tracemalloc.get_traced_memory()[1]  # NumPy's arrays are in it
        finally:
            tracemalloc.stop()
    assert sum(widths) == size
    assert max(widths) * size == dense_gradients.SLICE_SIZE == size * size // 32
    assert peak < 4 * size * size / 2
