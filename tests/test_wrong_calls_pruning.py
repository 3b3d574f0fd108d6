"""Wrong calls of `stf.pruning` and `stf.training`, and what they are told."""

import keras
import numpy as np
import pytest
import wrong_calls
from wrong_calls import (
    INF,
    NAN,
    RAGGED,
    Says,
    X,
    Y,
    not_models,
    parameters,
    shared,
)

import sparsenet_tf as stf
from sparsenet_tf.pruning import (
    NM,
    SET,
    SNIP,
    Blocks,
    ConstantSparsity,
    CosineDecay,
    Gradient,
    GraSP,
    Movement,
    PolynomialDecay,
    PruningCallback,
    Random,
    RigL,
    SynFlow,
    Units,
    Wanda,
    magnitude,
    prune_one_shot,
)
from sparsenet_tf.training import LotteryTicket, lottery_ticket, retrain_from_scratch

ONCE = ConstantSparsity(0.5, 0)
MOVES = CosineDecay(0.5, 10)
MASKS = {"hidden/kernel": np.ones((4, 5), bool)}


def fit(kind, *callbacks):
    shared(kind).fit(X, Y, verbose=0, callbacks=list(callbacks))


def train(model, callbacks):
    raise AssertionError("A wrong call came as far as training.")


def ticket_of(model):
    return LotteryTicket(model, None, (), ())


def of_data(*rows):
    """Rows for a criterion of `(x, y, batch_size)`."""
    return [
        ("no examples", "x", lambda f: f(X[:0], Y[:0])),
        ("several lengths", "x", lambda f: f(X, Y[1:])),
        ("None", "x", lambda f: f(None, None)),
        ("a number", "x", lambda f: f(3, Y)),
        ("a generator", "x", lambda f: f((row for row in X), Y)),
        ("rows of several lengths", "x", lambda f: f(RAGGED, Y)),
        ("a batch of none", "batch_size", lambda f: f(X, Y, 0)),
        ("a float as batch size", "batch_size", lambda f: f(X, Y, 2.0)),
        ("an array as batch size", "batch_size", lambda f: f(X, Y, np.ones(2, int))),
        (
            "a model that is not compiled",
            "model",
            lambda f: prune_one_shot(shared("masked_uncompiled"), 0.6, f(X, Y)),
        ),
        (
            "NaN in the data",
            "criterion",
            lambda f: prune_one_shot(shared("masked"), 0.6, f(X * NAN, Y)),
        ),
        (
            "inputs of another shape",
            Says("shape", "(8, 3)"),
            lambda f: prune_one_shot(shared("masked"), 0.6, f(X[:, 1:], Y)),
        ),
        *rows,
    ]


def of_dynamic(*arguments):
    """Rows for a callback that moves connections."""
    return [
        ("no schedule", "schedule", lambda f: f(None, *arguments)),
        ("a class", "schedule", lambda f: f(CosineDecay, *arguments)),
        ("a sparsity's schedule", "schedule", lambda f: f(ONCE, *arguments)),
        ("a class to drop", "drop", lambda f: f(MOVES, *arguments, drop=Random)),
        ("a name to drop", "drop", lambda f: f(MOVES, *arguments, drop="magnitude")),
        ("a number to exclude", "exclude", lambda f: f(MOVES, *arguments, exclude=1)),
        ("a negative seed", "seed", lambda f: f(MOVES, *arguments, seed=-1)),
        ("a bool as seed", "seed", lambda f: f(MOVES, *arguments, seed=True)),
        ("a dense model", "model", lambda f: fit("dense", f(MOVES, *arguments))),
        (
            "no model",
            "model",
            lambda f: f(MOVES, *arguments).on_train_begin(),
        ),
        (
            "an unknown layer",
            Says("`exclude`", "'a'"),
            lambda f: fit("masked", f(MOVES, *arguments, exclude="a")),
        ),
        (
            "scores of another shape",
            "drop",
            lambda f: fit(
                "trained",
                f(CosineDecay(0.5, 10, 0, 1), *arguments, drop=lambda w: w[:1]),
            ),
        ),
    ]


OF_PRUNING = {
    PolynomialDecay: [
        ("all pruned", "final_sparsity", lambda f: f(0.0, 1.0, 0, 10)),
        ("NaN", "initial_sparsity", lambda f: f(NAN, 0.5, 0, 10)),
        ("a text", "initial_sparsity", lambda f: f("0", 0.5, 0, 10)),
        ("a fall", "final_sparsity", lambda f: f(0.6, 0.5, 0, 10)),
        ("a float", "begin_step", lambda f: f(0.0, 0.5, 0.5, 10)),
        ("an array", "begin_step", lambda f: f(0.0, 0.5, np.array([1, 2]), 10)),
        ("an end before the begin", "end_step", lambda f: f(0.0, 0.5, 5, 4)),
        ("no frequency", "frequency", lambda f: f(0.0, 0.5, 0, 10, frequency=0)),
        ("infinity", "power", lambda f: f(0.0, 0.5, 0, 10, power=INF)),
        ("a bool", "power", lambda f: f(0.0, 0.5, 0, 10, power=True)),
        ("no step", "step", lambda f: f(0.0, 0.5, 0, 10)(None)),
        ("a step of NaN", "step", lambda f: f(0.0, 0.5, 0, 10)(NAN)),
        ("a negative step", "step", lambda f: f(0.0, 0.5, 0, 10).last_update(-1)),
    ],
    ConstantSparsity: [
        ("less than none", "target_sparsity", lambda f: f(-0.5, 0)),
        ("None", "begin_step", lambda f: f(0.5, None)),
        ("an end before the begin", "end_step", lambda f: f(0.5, 5, 4)),
        ("a bool", "frequency", lambda f: f(0.5, 0, frequency=True)),
        ("a text as step", "step", lambda f: f(0.5, 0)("1")),
        ("a float as step", "step", lambda f: f(0.5, 0).last_update(1.5)),
    ],
    CosineDecay: [
        ("more than all", "initial_fraction", lambda f: f(1.1, 10)),
        ("NaN", "initial_fraction", lambda f: f(NAN, 10)),
        ("an array", "initial_fraction", lambda f: f(np.ones(2), 10)),
        ("an end before the begin", "end_step", lambda f: f(0.5, 4, 5)),
        ("a float", "frequency", lambda f: f(0.5, 10, frequency=1.0)),
        ("None as step", "step", lambda f: f(0.5, 10)(None)),
        ("a text as step", "step", lambda f: f(0.5, 10).last_update("1")),
    ],
    PruningCallback: [
        ("no schedule", "schedule", lambda f: f(None)),
        ("a sparsity", "schedule", lambda f: f(0.5)),
        ("a class as schedule", "schedule", lambda f: f(PolynomialDecay)),
        ("moves as schedule", "schedule", lambda f: f(MOVES)),
        ("a name", "criterion", lambda f: f(ONCE, "magnitude")),
        ("a class as criterion", "criterion", lambda f: f(ONCE, SNIP)),
        ("an unknown scope", "scope", lambda f: f(ONCE, scope="kernel")),
        ("None as scope", "scope", lambda f: f(ONCE, scope=None)),
        ("a scope's sparsity", "scope", lambda f: f(ONCE, scope={"out": 1.5})),
        ("a scope of numbers", "scope", lambda f: f(ONCE, scope={1: 0.5})),
        ("a number to exclude", "exclude", lambda f: f(ONCE, exclude=1)),
        ("None to exclude", "exclude", lambda f: f(ONCE, exclude=None)),
        ("bytes to exclude", "exclude", lambda f: f(ONCE, exclude=b"out")),
        ("a class as structure", "structure", lambda f: f(ONCE, structure=Units)),
        ("a pair as structure", "structure", lambda f: f(ONCE, structure=(2, 4))),
        (
            "more than the structure has",
            "final_sparsity",
            lambda f: f(ConstantSparsity(0.9, 0), structure=NM(2, 4)),
        ),
        ("no model", "model", lambda f: f(ONCE).on_train_begin()),
        ("no masks", "model", lambda f: fit("dense", f(ONCE))),
        ("no kernels", "model", lambda f: fit_no_kernels(f(ONCE))),
        (
            "not compiled",
            Says("compile()"),
            lambda f: fit("masked_uncompiled", f(ONCE)),
        ),
        (
            "an unknown layer",
            Says("`exclude`", "'a'"),
            lambda f: fit("masked", f(ONCE, exclude="a")),
        ),
        (
            "an unknown layer in the scope",
            Says("`scope`", "'a'"),
            lambda f: fit("masked", f(ONCE, scope={"a": 0.5})),
        ),
        (
            "all excluded",
            Says("`exclude`", "hidden/kernel"),
            lambda f: fit("masked", f(ONCE, exclude=["hidden", "out"])),
        ),
        (
            "scores of NaN",
            "criterion",
            lambda f: fit("masked", f(ONCE, lambda w: w * NAN)),
        ),
        (
            "scores that are strings",
            "criterion",
            lambda f: fit("masked", f(ONCE, lambda w: w.astype(str))),
        ),
    ],
    prune_one_shot: [
        *not_models(0.5),
        ("an unbuilt model", "model", lambda f: f(shared("unbuilt"), 0.5)),
        ("an empty model", "model", lambda f: f(shared("empty"), 0.5)),
        ("no kernels", "model", lambda f: f(shared("no_kernels"), 0.5)),
        ("weights of NaN", "model", lambda f: f(shared("with_nan"), 0.5)),
        ("all pruned", "sparsity", lambda f: f(shared("dense"), 1.0)),
        ("a percentage", "sparsity", lambda f: f(shared("subclassed"), 50)),
        ("a text as sparsity", "sparsity", lambda f: f(shared("dense"), "0.5")),
        ("None", "sparsity", lambda f: f(shared("dense"), None)),
        (
            "a name as criterion",
            "criterion",
            lambda f: f(shared("dense"), 0.5, "magnitude"),
        ),
        (
            "scores of another shape",
            "criterion",
            lambda f: f(shared("masked"), 0.6, lambda w: w[0]),
        ),
        (
            "no scores",
            "criterion",
            lambda f: f(shared("masked"), 0.6, lambda w: None),
        ),
        (
            "scores of infinity",
            "criterion",
            lambda f: f(shared("masked"), 0.6, lambda w: w + INF),
        ),
        (
            "rows of several lengths",
            "criterion",
            lambda f: f(shared("masked"), 0.6, lambda w: RAGGED),
        ),
        (
            "scores of NaN for a subclassed model",
            "criterion",
            lambda f: f(shared("subclassed"), 0.6, lambda w: w * NAN),
        ),
        ("an unknown scope", "scope", lambda f: f(shared("dense"), 0.5, scope="all")),
        (
            "a scope of NaN",
            "scope",
            lambda f: f(shared("dense"), 0.5, scope={"out": NAN}),
        ),
        (
            "a number to exclude",
            "exclude",
            lambda f: f(shared("dense"), 0.5, exclude=3),
        ),
        (
            "a name as optimizer",
            "optimizer",
            lambda f: f(shared("masked"), 0.6, optimizer="sgd"),
        ),
        (
            "a class as optimizer",
            "optimizer",
            lambda f: f(shared("masked"), 0.6, optimizer=keras.optimizers.SGD),
        ),
        (
            "a class as structure",
            "structure",
            lambda f: f(shared("dense"), 0.5, structure=NM),
        ),
        (
            "more than the structure has",
            "sparsity",
            lambda f: f(shared("dense"), 0.9, structure=NM(2, 4)),
        ),
    ],
    NM: [
        ("none", "n", lambda f: f(0, 4)),
        ("a float", "n", lambda f: f(2.0, 4)),
        ("a bool", "n", lambda f: f(True, 4)),
        ("as many as there are", "m", lambda f: f(4, 4)),
        ("a text", "m", lambda f: f(2, "4")),
    ],
    Blocks: [
        ("a number", "shape", lambda f: f(4)),
        ("three sizes", "shape", lambda f: f((4, 4, 4))),
        ("a size of zero", "shape", lambda f: f((4, 0))),
        ("a float", "shape", lambda f: f((4.0, 4))),
    ],
    Units: [("an argument", Says("Units"), lambda f: f(4))],
    Random: [
        ("a negative seed", "seed", lambda f: f(-1)),
        ("None", "seed", lambda f: f(None)),
        ("an array", "seed", lambda f: f(np.array([1, 2]))),
        ("an array of a float", "seed", lambda f: f(np.array(2.5))),
    ],
    magnitude: [
        (
            "a model in place of a criterion's weights",
            Says("Sequential"),
            lambda f: f(shared("dense")),
        ),
    ],
    Movement: [
        (
            "no training to see",
            "criterion",
            lambda f: prune_one_shot(shared("masked"), 0.6, f()),
        ),
    ],
    Gradient: of_data(),
    SNIP: of_data(
        (
            "a loss of no weight",
            "model",
            lambda f: prune_one_shot(shared("of_zeros"), 0.6, f(X * 0, Y)),
        ),
    ),
    GraSP: of_data(
        ("no temperature", "temperature", lambda f: f(X, Y, temperature=0)),
        ("a temperature of NaN", "temperature", lambda f: f(X, Y, temperature=NAN)),
        ("a text as temperature", "temperature", lambda f: f(X, Y, temperature="1")),
    ),
    SynFlow: [
        ("no rounds", "rounds", lambda f: f(0)),
        ("a float", "rounds", lambda f: f(2.5)),
        ("a bool", "rounds", lambda f: f(True)),
        ("a text", "example", lambda f: f(2, "inputs")),
        ("a number", "example", lambda f: f(2, 3.0)),
        (
            "inputs that are not known",
            "example",
            lambda f: prune_one_shot(stf.sparsify(new_subclassed()), 0.5, f(2)),
        ),
    ],
    Wanda: [
        ("no examples", "x", lambda f: f(X[:0])),
        ("None", "x", lambda f: f(None)),
        ("a generator", "x", lambda f: f(row for row in X)),
        ("a text as batch size", "batch_size", lambda f: f(X, "32")),
        (
            "another kind of layer",
            "criterion",
            lambda f: prune_one_shot(
                stf.sparsify(shared("lstm")), 0.5, f(np.ones((2, 4, 2), "float32"))
            ),
        ),
    ],
    SET: of_dynamic(),
    RigL: [
        *of_dynamic(X, Y),
        ("no examples", "x", lambda f: f(MOVES, X[:0], Y[:0])),
        ("several lengths", "x", lambda f: f(MOVES, X, Y[1:])),
        ("None as data", "x", lambda f: f(MOVES, None, None)),
        ("a batch of none", "batch_size", lambda f: f(MOVES, X, Y, batch_size=0)),
    ],
}

OF_TRAINING = {
    retrain_from_scratch: [
        *not_models(MASKS, X, Y, verbose=0),
        ("an unbuilt model", "model", lambda f: f(unbuilt_but_compiled(), {}, X, Y)),
        ("not compiled", "model", lambda f: f(shared("uncompiled"), MASKS, X, Y)),
        ("a list of masks", "masks", lambda f: f(shared("dense"), [1], X, Y)),
        (
            "an unknown kernel",
            Says("`masks`", "'a'"),
            lambda f: f(shared("dense"), {"a": [1]}, X, Y),
        ),
        (
            "masks of NaN",
            "mask",
            lambda f: f(shared("dense"), {"out/kernel": np.full((5, 3), NAN)}, X, Y),
        ),
        ("no seeds", "seeds", lambda f: f(shared("dense"), MASKS, X, Y, ())),
        ("None as seeds", "seeds", lambda f: f(shared("dense"), MASKS, X, Y, None)),
        ("a seed twice", "seeds", lambda f: f(shared("dense"), MASKS, X, Y, (1, 1))),
        ("a negative seed", "seeds", lambda f: f(shared("dense"), MASKS, X, Y, [-1])),
        ("a bool as seed", "seeds", lambda f: f(shared("dense"), MASKS, X, Y, [True])),
        ("a float as seed", "seeds", lambda f: f(shared("dense"), MASKS, X, Y, 0.5)),
        ("lists as seeds", "seeds", lambda f: f(shared("dense"), MASKS, X, Y, [[1]])),
        (
            "a text as flag",
            "sparse",
            lambda f: f(shared("dense"), MASKS, X, Y, sparse="no"),
        ),
        (
            "a number as flag",
            "scale_to_fan_in",
            lambda f: f(shared("dense"), MASKS, X, Y, scale_to_fan_in=2),
        ),
        (
            "several lengths",
            Says("number of samples", "8", "7"),
            lambda f: f(shared("dense"), MASKS, X, Y[1:], 0, verbose=0),
        ),
        (
            "inputs of another shape",
            Says("shape", "3"),
            lambda f: f(shared("dense"), MASKS, X[:, 1:], Y, 0, verbose=0),
        ),
        (
            "no targets",
            "y",
            lambda f: f(shared("dense"), MASKS, X, None, 0, verbose=0),
        ),
        (
            "an argument that fit has not",
            Says("epoch"),
            lambda f: f(shared("dense"), MASKS, X, Y, 0, epoch=3),
        ),
    ],
    lottery_ticket: [
        *not_models(train, 0.5),
        ("not compiled", "model", lambda f: f(shared("uncompiled"), train, 0.5)),
        ("an unbuilt model", "model", lambda f: f(unbuilt_but_compiled(), train, 0.5)),
        ("no kernels", "model", lambda f: f(shared("no_kernels"), train, 0.5)),
        ("no function", "train", lambda f: f(shared("dense"), 3, 0.5)),
        ("all pruned", "sparsity", lambda f: f(shared("dense"), train, 1.0)),
        ("no rounds", "rounds", lambda f: f(shared("dense"), train, 0.5, 0)),
        ("a float", "rounds", lambda f: f(shared("dense"), train, 0.5, 2.0)),
        (
            "a negative step",
            "rewind_step",
            lambda f: f(shared("dense"), train, 0.5, 1, -1),
        ),
        (
            "an unknown scope",
            "scope",
            lambda f: f(shared("dense"), train, 0.5, scope=3),
        ),
        ("a number", "exclude", lambda f: f(shared("dense"), train, 0.5, exclude=3)),
        (
            "training that ends too soon",
            "train",
            lambda f: f(shared("dense"), lambda model, callbacks: None, 0.5, 1, 5),
        ),
    ],
    LotteryTicket: [
        (
            "a subclassed model",
            "on",
            lambda f: f(shared("subclassed"), None, (), ()).on({}),
        ),
        (
            "a list of masks",
            "masks",
            lambda f: f(shared("masked"), None, (), ()).on([1]),
        ),
    ],
}


def new_subclassed():
    return wrong_calls.make_subclassed()


def unbuilt_but_compiled():
    model = wrong_calls.make_unbuilt()
    model.compile("sgd", "mse")
    return model


def fit_no_kernels(callback):
    model = shared("no_kernels")
    model.fit(X, X, verbose=0, callbacks=[callback])


@pytest.mark.parametrize(
    "function, argument, call", parameters({**OF_PRUNING, **OF_TRAINING})
)
def test_says_what_is_wrong(function, argument, call):
    wrong_calls.check(function, argument, call)


def test_every_public_name_is_in_a_table():
    left = wrong_calls.uncovered([stf.pruning, stf.training], OF_PRUNING, OF_TRAINING)
    # Of TensorFlow, as `fit`: in `test_wrong_calls_tensorflow.py`.
    late = ["fit"] if keras.backend.backend() == "tensorflow" else []
    assert left == ["SparsityLogger", *late]
