"""`to_sparse` and `to_dense`: the same model, stored in another way."""

import keras
import numpy as np
import pytest
from backends import assert_allclose, assert_array_equal, separate_arrays, values

import sparsenet_tf as stf
from sparsenet_tf.experiments import load
from sparsenet_tf.experiments.models import lenet_300_100
from sparsenet_tf.layers import Masked, RadixDense, SparseConv2D, SparseDense
from sparsenet_tf.pruning.steps import optimizer_step

L = keras.layers


class Losses(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.values = []

    def on_train_batch_end(self, batch, logs=None):
        self.values.append(logs["loss"])


def compiled(model, optimizer):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    model.optimizer.build(model.trainable_variables)  # or steps are traced twice
    return model


def kinds(model):
    return [type(layer) for layer in model.layers if layer.weights]


def train(model, data, steps):
    losses = Losses()
    count = 100 * steps
    x, y = (np.resize(a, (count, *a.shape[1:])) for a in (data.x_train, data.y_train))
    arguments = dict(batch_size=100, shuffle=False, verbose=0, callbacks=[losses])
    model.fit(x, y, **arguments)
    separate_arrays(model)
    return losses.values


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.1),
        lambda: keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True),
        lambda: keras.optimizers.Adam(),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()),
    ],
    ids=["SGD", "momentum and averages", "Adam", "loss scaling"],
)
@pytest.mark.often("Adam")
def test_a_pruned_lenet_goes_on_as_it_was(optimizer):
    data = load("mnist_5k")
    model = compiled(lenet_300_100(seed=0), optimizer())
    train(model, data, 10)
    masked = stf.pruning.prune_one_shot(model, 0.95)
    train(masked, data, 10)
    new = stf.to_sparse(masked, layers="all", optimizer_state=True)
    assert kinds(new) == [SparseDense] * 3
    assert [layer.name for layer in new.layers] == [x.name for x in masked.layers]
    x = data.x_test
    predictions = masked.predict(x, verbose=0)
    assert_allclose(new.predict(x, verbose=0), predictions, atol=1e-5)
    back = stf.to_dense(new, optimizer_state=True)
    assert kinds(back) == [Masked] * 3
    for path, mask in stf.get_masks(masked).items():
        assert_array_equal(stf.get_masks(back)[path], mask)
    assert_array_equal(back.predict(x, verbose=0), predictions)
    assert optimizer_step(new) == optimizer_step(masked) == 10
    expected = train(masked, data, 100)
    assert_allclose(train(new, data, 100), expected, atol=1e-4)
    assert_allclose(train(back, data, 100), expected, atol=1e-4)


def test_the_original_is_left_as_it_was():
    model = stf.pruning.prune_one_shot(lenet_300_100(seed=0), 0.95)
    before = model.get_weights()
    stf.to_sparse(model, layers="all")
    assert kinds(model) == [Masked] * 3
    for old, now in zip(before, model.get_weights(), strict=True):
        assert_array_equal(now, old)


def test_a_fresh_optimizer_unless_asked_for():
    data = load("mnist_5k")
    model = compiled(stf.sparsify(lenet_300_100(seed=0)), keras.optimizers.Adam())
    train(model, data, 3)
    assert int(stf.to_sparse(model, layers="all").optimizer.iterations) == 0


def test_radix_masks_become_radix_layers():
    net = stf.topology.RadixNet((10, 10), (8, 3, 1))
    model = stf.sparsify(
        lenet_300_100(seed=0),
        {"dense1/kernel": net.masks[0][16:], "dense2/kernel": net.masks[1]},
    )
    new = stf.to_sparse(model, layers="all")
    assert kinds(new) == [RadixDense] * 3  # the last one joins all with all
    x = load("mnist_5k").x_test[:50]
    assert_allclose(new(x), model(x), atol=1e-5)
    back = stf.to_dense(new)
    for path, mask in stf.get_masks(model).items():
        assert_array_equal(stf.get_masks(back)[path], mask)


def test_to_dense_of_radix_convolutions():
    inputs = keras.Input((8, 8, 16))
    topology = stf.topology.RadixLayer(16, 4, 1)
    outputs = stf.layers.RadixConv2D(topology, 3)(inputs)
    model = keras.Model(inputs, outputs)
    back = stf.to_dense(model)
    [mask] = back.layers[1].masks.values()
    assert_array_equal(mask, np.broadcast_to(topology.mask(), mask.shape))
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 16)).astype("float32")
    assert_allclose(back(x), model(x), rtol=1e-4, atol=1e-5)


def test_layers_by_their_density():
    model = lenet_300_100(seed=0)
    masks = {
        path: stf.topology.random_mask(kernel.shape, sparsity, seed=0)
        for (path, kernel), sparsity in zip(
            stf.layers.tree.kernels(model).items(), (0.98, 0.9, 0.5), strict=True
        )
    }
    model = stf.sparsify(model, masks)
    assert kinds(stf.to_sparse(model, layers=0.15)) == [SparseDense] * 2 + [Masked]
    assert kinds(stf.to_sparse(model, layers=0.0)) == [Masked] * 3


def test_auto_takes_what_pays(monkeypatch):
    model = stf.pruning.prune_one_shot(lenet_300_100(seed=0), 0.95)
    can_run, pays = "sparse.native_can_run", "sparse.native_pays"
    module = "sparsenet_tf.transform.convert."
    monkeypatch.setattr(module + can_run, lambda dtype: False)
    assert kinds(stf.to_sparse(model)) == [Masked] * 3
    monkeypatch.setattr(module + can_run, lambda dtype: True)
    asked = []

    def wide(pattern, batch):
        asked.append(batch)
        return pattern.input_size > 200

    monkeypatch.setattr(module + pays, wide)
    found = kinds(stf.to_sparse(model, batch_size=7))
    assert found == [SparseDense] * 2 + [Masked] and set(asked) == {7}


def test_auto_leaves_convolutions_of_few_channels(monkeypatch):
    monkeypatch.setattr(
        "sparsenet_tf.transform.convert.sparse.native_can_run", lambda dtype: True
    )
    convolutions = [
        L.Conv2D(64, 3, name="of_three_channels"),
        L.Conv2D(64, 1, name="of_one_pixel"),
        L.Conv2D(64, 3, name="large"),
        L.Conv2D(64, 3, groups=16, name="of_many_groups"),
    ]
    model = keras.Sequential([keras.Input((16, 16, 3)), *convolutions])
    model = stf.pruning.prune_one_shot(model, 0.9)
    found = stf.to_sparse(model)
    assert kinds(found) == [Masked, Masked, SparseConv2D, Masked]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.last = L.Dense(9, "relu"), L.Dense(3)

    def call(self, x):
        return self.last(self.first(x))


def test_a_subclassed_model_is_changed_in_place():
    x = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")
    model = Subclassed()
    model(x)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    model = stf.pruning.prune_one_shot(model, 0.6)
    y = np.ones((6, 3), "float32")
    model.fit(x, y, verbose=0)
    wanted = values(model(x))
    new = stf.to_sparse(model, layers="all", optimizer_state=True)
    assert new is model and type(model.first) is SparseDense
    assert_allclose(model(x), wanted, atol=1e-6)
    model.fit(x, y, verbose=0)
    stf.to_dense(model, optimizer_state=True)
    assert type(model.first) is Masked and int(model.optimizer.iterations) == 2
    model.fit(x, y, verbose=0)


def test_layers_used_twice_and_nested_models():
    inputs = keras.Input((6,))
    twice = L.Dense(6, name="twice")
    inner = keras.Sequential([keras.Input((6,)), L.Dense(6, name="inner")], name="net")
    model = keras.Model(inputs, twice(inner(twice(inputs))))
    model = stf.pruning.prune_one_shot(model, 0.5)
    new = stf.to_sparse(model, layers="all")
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    assert_allclose(new(x), model(x), atol=1e-5)
    assert sum(isinstance(layer, SparseDense) for layer in new.layers) == 1
    assert kinds(new.get_layer("net")) == [SparseDense]


def test_says_what_is_wrong():
    model = stf.pruning.prune_one_shot(lenet_300_100(seed=0), 0.95)
    for wrong in ("most", 2, -0.1, None, True):
        with pytest.raises(ValueError, match="`layers` must be 'auto'"):
            stf.to_sparse(model, layers=wrong)
    with pytest.raises(TypeError, match="`model` must be a keras.Model"):
        stf.to_sparse(L.Dense(3))
    with pytest.raises(ValueError, match="not built"):
        stf.to_dense(keras.Sequential([L.Dense(3)]))
    with pytest.raises(ValueError, match="`optimizer_state` needs a compiled model"):
        stf.to_sparse(model, optimizer_state=True)
    compiled(model, keras.optimizers.Adafactor())
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match="`optimizer_state`.*Adafactor"):
        stf.to_sparse(model, layers="all", optimizer_state=True)


def test_retraining_never_holds_a_dense_kernel():
    data = load("mnist_5k")
    model = compiled(lenet_300_100(seed=0), keras.optimizers.SGD(0.1))
    train(model, data, 20)
    masks = stf.get_masks(stf.pruning.prune_one_shot(model, 0.9))
    radix = stf.topology.RadixNet((10, 10), (8, 3, 1)).masks[1]
    masks["dense2/kernel"] = radix
    x, y = data.x_train[:500], data.y_train[:500]
    arguments = dict(seeds=(0, 1), sparse=True, epochs=3, verbose=0)
    histories = stf.retrain_from_scratch(model, masks, x, y, **arguments)
    first, second = (history.model for history in histories)
    assert kinds(first) == [SparseDense, RadixDense, SparseDense]
    held = [tuple(w.shape) for w in first.weights + first.optimizer.variables]
    assert (
        max(np.prod(shape, initial=1) for shape in held) == masks["dense1/kernel"].sum()
    )
    for path, mask in stf.get_masks(stf.to_dense(first)).items():
        assert_array_equal(mask, masks[path])
    assert not np.allclose(first.layers[1].kernel, second.layers[1].kernel)
    assert histories[0].history["loss"][-1] < histories[0].history["loss"][0]
    again = stf.retrain_from_scratch(model, masks, x, y, **{**arguments, "seeds": 0})
    for a, b in zip(first.get_weights(), again[0].model.get_weights(), strict=True):
        assert_array_equal(a, b)


@pytest.mark.parametrize("scaled", [False, True])
def test_sparse_rebuilds_draw_from_the_same_distribution(scaled):
    model = keras.Sequential([keras.Input((400,)), L.Dense(500)])
    masks = {"dense/kernel": stf.topology.expander_mask((400, 500), 40, seed=0)}
    model.layers[0].name = "dense"
    dense = stf.rebuild(model, masks, 0, scaled).layers[0].kernel.numpy()
    from sparsenet_tf.transform.rebuild_sparse import rebuild_sparse

    sparse = rebuild_sparse(model, masks, 0, scaled).layers[0].kernel.numpy()
    wanted = dense[masks["dense/kernel"]].std() if not scaled else np.sqrt(2 / 90)
    assert sparse.std() == pytest.approx(wanted, rel=0.05)


def test_sparse_rebuilds_keep_masks_of_other_layers():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            L.DepthwiseConv2D(3),
            L.Conv2D(3, 3),
            L.Flatten(),
            L.Dense(4),
        ]
    )
    sparse = stf.sparsify(model)
    masks = stf.get_masks(stf.pruning.prune_one_shot(sparse, 0.5))
    model.compile("sgd", "mse")
    x, y = np.ones((4, 8, 8, 2), "float32"), np.ones((4, 4), "float32")
    [history] = stf.retrain_from_scratch(
        model, masks, x, y, seeds=0, sparse=True, verbose=0
    )
    assert kinds(history.model) == [Masked, SparseConv2D, SparseDense]
    for path, mask in stf.get_masks(stf.to_dense(history.model)).items():
        assert_array_equal(mask, masks[path])
