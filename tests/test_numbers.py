"""Numbers at their limits: every precision, almost no weights, ties, infinities."""

import keras
import numpy as np
import pytest
from backends import DOUBLE_PRECISION, assert_allclose, values

import sparsenet_tf as stf
from sparsenet_tf.experiments import lenet_300_100
from sparsenet_tf.layers.masked import masked_kernels
from sparsenet_tf.pruning import (
    SET,
    SNIP,
    CosineDecay,
    Gradient,
    GraSP,
    Movement,
    PolynomialDecay,
    PruningCallback,
    Random,
    RigL,
    SynFlow,
    Wanda,
    magnitude,
    prune_one_shot,
)

POLICIES = [
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "mixed_float16",
    "mixed_bfloat16",
]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 6, 6, 2)).astype("float32")
Y = RNG.integers(0, 3, 24)


def network():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(5, 3, activation="relu", name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(7, activation="relu", name="hidden"),
            keras.layers.Dense(3, name="logits"),
        ]
    )
    compile_model(model)
    return model


def compile_model(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    model.optimizer.build(model.trainable_variables)  # or steps are traced twice


def fit(model, *callbacks):
    model.fit(X, Y, batch_size=8, epochs=2, callbacks=list(callbacks), verbose=0)


def assert_whole(model, sparsity=None):
    """Masked weights are zero, others finite, and counts as they should be."""
    for path, masked in masked_kernels(model).items():
        kernel, mask = values(masked.kernel), masked.mask_value()
        assert np.isfinite(kernel.astype("float64")).all(), path
        assert not kernel[~mask].any(), path
        if sparsity is not None:
            expected = mask.size - min(round(sparsity * mask.size), mask.size - 1)
            assert mask.sum() == expected, path


@pytest.fixture(params=POLICIES)
def policy(request, float64):
    keras.config.set_dtype_policy(request.param)
    return request.param


CRITERIA = {
    "magnitude": lambda: magnitude,
    "random": lambda: Random(0),
    "gradient": lambda: Gradient(X, Y),
    "snip": lambda: SNIP(X, Y),
    "grasp": lambda: GraSP(X, Y),
    "synflow": lambda: SynFlow(3),
    "wanda": lambda: Wanda(X),
}


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.often("float16-*", "*-snip")
def test_criteria_in_every_precision(policy, criterion):
    model = prune_one_shot(network(), 0.8, CRITERIA[criterion]())
    assert_whole(model, 0.8)


@pytest.mark.often("float16", "float64", "mixed_bfloat16")
def test_training_in_every_precision(policy):
    model = stf.sparsify(network())
    schedule = PolynomialDecay(0.0, 0.9, 1, 5, frequency=2)
    fit(model, PruningCallback(schedule))
    assert_whole(model, 0.9)
    masks = stf.get_masks(model)

    new = stf.rebuild(model, masks, seed=1, scale_to_fan_in=True)
    fit(new)
    assert_whole(new, 0.9)

    [history] = stf.retrain_from_scratch(
        model, masks, X, Y, seeds=[3], batch_size=8, verbose=0
    )
    assert_whole(history.model, 0.9)
    assert np.isfinite(history.history["loss"]).all()

    plain = stf.strip(model)
    assert_allclose(plain(X), model(X))
    assert str(plain.dtype_policy.name) == str(model.dtype_policy.name)
    assert stf.summary(model, print_fn=None).sparsity == pytest.approx(0.9, abs=0.01)


LONG = [pytest.param(name, marks=pytest.mark.slow) for name in ("movement", "ticket")]


@pytest.mark.parametrize("method", ["set", "rigl", *LONG])
@pytest.mark.often("*-rigl", "float16-*")
def test_methods_in_every_precision(policy, method):
    model = prune_one_shot(network(), 0.7, Random(0))
    schedule = CosineDecay(0.5, end_step=6, frequency=2)
    if method == "set":
        fit(model, SET(schedule))
    elif method == "rigl":
        fit(model, RigL(schedule, X, Y, 8))
    elif method == "movement":
        decay = PolynomialDecay(0.0, 0.7, 1, 5, frequency=2)
        fit(model, PruningCallback(decay, Movement()))
    else:
        ticket = stf.training.lottery_ticket(
            network(), lambda m, callbacks: fit(m, *callbacks), 0.7, 2, 2, "layer"
        )
        model = ticket.model
    assert_whole(model, 0.7)


def test_sparse_layers_in_every_precision(policy):
    model = prune_one_shot(network(), 0.9)
    sparse = stf.to_sparse(model)
    eps = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-5}
    compute = policy.removeprefix("mixed_")
    tolerance = eps.get(compute, DOUBLE_PRECISION)
    expected = values(model(X)).astype("float64")
    scale = np.abs(expected).max()
    assert_allclose(
        values(sparse(X)).astype("float64"), expected, atol=8 * tolerance * scale
    )
    back = stf.to_dense(sparse)
    for name in ("hidden", "logits"):
        np.testing.assert_array_equal(
            values(back.get_layer(name).kernel), values(model.get_layer(name).kernel)
        )


def test_of_every_kernel_one_weight_is_left():
    model = prune_one_shot(network(), 0.9999)
    assert [int(m.sum()) for m in stf.get_masks(model).values()] == [1, 1, 1]
    fit(model)
    assert_whole(model, 0.9999)
    sparse = stf.to_sparse(model)
    assert_allclose(sparse(X), model(X), rtol=1e-5, atol=1e-6)
    shrunk = stf.strip(model)
    assert_allclose(shrunk(X), model(X))


def test_a_lenet_of_99_9_percent_trains():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 28, 28, 1)).astype("float32")
    model = prune_one_shot(lenet_300_100(seed=0), 0.999)
    assert sum(int(m.sum()) for m in stf.get_masks(model).values()) == 235 + 30 + 1
    compile_model(model)
    history = model.fit(x, np.zeros(50), epochs=3, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert_whole(model, 0.999)


def small_last():
    model = network()
    logits = model.get_layer("logits")
    logits.kernel.assign(logits.kernel * 1e-6)
    return model


def test_a_kernel_that_loses_all_weights_is_named():
    with pytest.warns(UserWarning, match=r"left no weight in \['logits/kernel'\]"):
        model = prune_one_shot(small_last(), 0.9, scope="global")
    fit(model)  # which goes on, with biases alone
    assert_whole(model)


def test_it_is_named_in_training_too_and_once():
    model = stf.sparsify(small_last())
    schedule = PolynomialDecay(0.0, 0.9, 0, 4, frequency=1)
    with pytest.warns(UserWarning) as seen:
        fit(model, PruningCallback(schedule, scope="global"))
    named = [w for w in seen if "['logits/kernel']" in str(w.message)]
    assert len(named) == 1


@pytest.mark.filterwarnings("ignore:Pruning left no weight")  # the later ones go
@pytest.mark.parametrize("value", [0.0, 1.0, -3.5])
def test_equal_weights_are_counted_out_exactly(value):
    def equal():
        model = network()
        for kernel in stf.layers.tree.kernels(model).values():
            kernel.assign(np.full(kernel.shape, value, "float32"))
        return model

    model = prune_one_shot(equal(), 0.5)
    counts = [int(m.sum()) for m in stf.get_masks(model).values()]
    assert counts == [90 - 45, 560 - 280, 21 - 10]  # 10.5 is rounded to even
    model = prune_one_shot(equal(), 0.5, scope="global")
    counts = [int(m.sum()) for m in stf.get_masks(model).values()]
    assert counts == [90, 671 - 336 - 90, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "prune",
    [
        lambda model: prune_one_shot(model, 0.5),
        lambda model: prune_one_shot(model, 0.5, SNIP(X, Y), "global"),
        lambda model: prune_one_shot(model, 0.5, SynFlow(2), "global"),
        lambda model: prune_one_shot(model, 0.5, Wanda(X)),
    ],
    ids=["magnitude", "snip", "synflow", "wanda"],
)
def test_infinite_weights_are_refused_by_name(bad, prune):
    model = network()
    kernel = values(model.get_layer("hidden").kernel).copy()
    kernel[3, 2] = bad
    model.get_layer("hidden").kernel.assign(kernel)
    with pytest.raises(ValueError, match="1 NaN or infinite values.*'hidden/kernel'"):
        prune(model)


def test_scores_that_overflow_are_refused():
    model = network()
    for kernel in stf.layers.tree.kernels(model).values():
        kernel.assign(np.full(kernel.shape, 1e30, "float32"))
    with pytest.raises(ValueError, match="`criterion` must return finite scores"):
        prune_one_shot(model, 0.5, SynFlow(2), "global")
