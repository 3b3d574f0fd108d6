"""Scopes: how an overall sparsity is spread over kernels."""

import keras
import numpy as np
import pytest

import sparsenet_tf as stf
from sparsenet_tf.pruning import PolynomialDecay, PruningCallback, prune_one_shot


def model():
    return keras.Sequential(
        [
            keras.Input((30,)),
            keras.layers.Dense(40, name="first"),
            keras.layers.Dense(20, name="second"),
            keras.layers.Dense(5, name="logits"),
        ]
    )


def sparsities(model):
    return {p.split("/")[0]: 1 - m.mean() for p, m in stf.get_masks(model).items()}


@pytest.mark.parametrize("scope", ["erdos_renyi", "erk"])
def test_shares_are_those_of_the_formula(scope):
    found = sparsities(prune_one_shot(model(), 0.8, scope=scope))
    # The densities are c (n_in + n_out) / (n_in n_out), so that there are c (70 + 60 +
    # 25) connections; 20% of 2,100 are 420.
    c = 420 / 155
    sizes = {"first": (30, 40), "second": (40, 20), "logits": (20, 5)}
    for name, (inputs, outputs) in sizes.items():
        kept = round(c * (inputs + outputs))
        assert found[name] == pytest.approx(1 - kept / (inputs * outputs), abs=1e-9)


def test_a_dict_gives_layers_a_sparsity_of_their_own():
    found = sparsities(prune_one_shot(model(), 0.9, scope={"logits": 0.5}))
    assert found == pytest.approx({"first": 0.9, "second": 0.9, "logits": 0.5})


def test_a_dict_goes_along_with_the_schedule():
    masked = stf.sparsify(model())
    masked.compile("sgd", "mse")
    schedule = PolynomialDecay(0.0, 0.8, 0, 4, power=1, frequency=2)
    pruning = PruningCallback(schedule, scope={"logits": 0.4, "second": 0.0})
    x, y = np.ones((4, 30), "float32"), np.ones((4, 5), "float32")
    masked.fit(x, y, batch_size=1, callbacks=[pruning], verbose=0)
    half, end = pruning.updates[2], pruning.updates[4]
    expected = {"first": 0.4, "second": 0.0, "logits": 0.2}
    assert half == pytest.approx({f"{n}/kernel": s for n, s in expected.items()})
    expected = {"first": 0.8, "second": 0.0, "logits": 0.4}
    assert end == pytest.approx({f"{n}/kernel": s for n, s in expected.items()})


def test_the_longest_name_counts():
    inner = keras.Sequential(
        [keras.Input((30,)), *model().layers[:2]],
        name="body",
    )
    x = keras.Input((30,))
    outer = keras.Model(x, keras.layers.Dense(5, name="logits")(inner(x)))
    scope = {"body": 0.5, "body/second": 0.25}
    found = stf.get_masks(prune_one_shot(outer, 0.8, scope=scope))
    assert {p: round(1 - m.mean(), 6) for p, m in found.items()} == {
        "body/first/kernel": 0.5,
        "body/second/kernel": 0.25,
        "logits/kernel": 0.8,
    }


@pytest.mark.parametrize(
    ("scope", "error", "words"),
    [
        ("kernel", ValueError, "`scope` must be one of"),
        (None, ValueError, "`scope` must be one of"),
        (["layer"], ValueError, "`scope` must be one of"),
        ({"logits": 1.0}, ValueError, r"`scope\['logits'\]` must be in \[0, 1\)"),
        ({"logits": "0.5"}, TypeError, r"`scope\['logits'\]` must be a number"),
        ({"head": 0.5}, ValueError, "`scope` names the layer 'head'"),
    ],
)
def test_bad_scopes_are_refused(scope, error, words):
    with pytest.raises(error, match=words):
        prune_one_shot(model(), 0.5, scope=scope)


def test_the_callback_checks_names_when_training_begins():
    masked = stf.sparsify(model())
    masked.compile("sgd", "mse")
    pruning = PruningCallback(PolynomialDecay(0.0, 0.5, 0, 1), scope={"head": 0.5})
    with pytest.raises(ValueError, match="`scope` names the layer 'head'"):
        masked.fit(np.ones((1, 30)), np.ones((1, 5)), callbacks=[pruning], verbose=0)
