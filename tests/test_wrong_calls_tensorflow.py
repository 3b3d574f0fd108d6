"""Wrong calls of what needs TensorFlow, and what they are told."""

import numpy as np
import pytest
import tensorflow as tf
import wrong_calls
from wrong_calls import NAN, RAGGED, L, Missing, X, Y, parameters, shared

from sparsenet_tf.interop import tfmot
from sparsenet_tf.pruning import PolynomialDecay, PruningCallback
from sparsenet_tf.training import SparsityLogger, fit

ONE = {"steps": 1, "batch_size": 4}
NO_BATCHES = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4).take(0)


def train(callback, kind="masked"):
    shared(kind).fit(X, Y, verbose=0, callbacks=[callback])


OF_TENSORFLOW = {
    fit: [
        *wrong_calls.not_models(X, Y, **ONE),
        ("not compiled", "model", lambda f: f(shared("uncompiled"), X, Y, **ONE)),
        ("an unbuilt model", "model", lambda f: f(shared("unbuilt"), X, Y, **ONE)),
        ("None as inputs", "x", lambda f: f(shared("dense"), None, Y, **ONE)),
        ("no targets", "y", lambda f: f(shared("dense"), X, **ONE)),
        ("a number as inputs", "x", lambda f: f(shared("dense"), 3.0, Y, **ONE)),
        ("a generator", "x", lambda f: f(shared("dense"), iter(X), Y, **ONE)),
        (
            "rows of several lengths",
            "x",
            lambda f: f(shared("dense"), RAGGED, Y, **ONE),
        ),
        ("several lengths", "x", lambda f: f(shared("dense"), X, Y[1:], **ONE)),
        ("no examples", "x", lambda f: f(shared("dense"), X[:0], Y[:0], **ONE)),
        ("no batches", "x", lambda f: f(shared("dense"), NO_BATCHES, steps=1)),
        (
            "targets beside batches",
            "y",
            lambda f: f(shared("dense"), NO_BATCHES, Y, steps=1),
        ),
        (
            "inputs of another shape",
            "x",
            lambda f: f(shared("dense"), X[:, 1:], Y, **ONE),
        ),
        ("no steps", "steps", lambda f: f(shared("dense"), X, Y, steps=0)),
        ("a float as steps", "steps", lambda f: f(shared("dense"), X, Y, steps=1.5)),
        ("a bool as steps", "steps", lambda f: f(shared("dense"), X, Y, steps=True)),
        (
            "an array as batch",
            "batch_size",
            lambda f: f(shared("dense"), X, Y, steps=1, batch_size=np.ones(2, int)),
        ),
        (
            "no period",
            "evaluate_every",
            lambda f: f(shared("dense"), X, Y, evaluate_every=0, **ONE),
        ),
        (
            "inputs alone to validate",
            "validation_data",
            lambda f: f(shared("dense"), X, Y, validation_data=X[:3], **ONE),
        ),
        (
            "several lengths to validate",
            "validation_data",
            lambda f: f(shared("dense"), X, Y, validation_data=(X, Y[1:]), **ONE),
        ),
        (
            "None to validate",
            "validation_data",
            lambda f: f(shared("dense"), X, Y, validation_data=(X, None), **ONE),
        ),
        (
            "a number as callbacks",
            "callbacks",
            lambda f: f(shared("dense"), X, Y, callbacks=3, **ONE),
        ),
        (
            "a function as callback",
            "callbacks",
            lambda f: f(shared("dense"), X, Y, callbacks=[print], **ONE),
        ),
        (
            "a class as callback",
            "callbacks",
            lambda f: f(shared("dense"), X, Y, callbacks=[PruningCallback], **ONE),
        ),
        (
            "None as seed",
            "seed",
            lambda f: f(shared("dense"), X, Y, seed=None, **ONE),
        ),
    ],
    SparsityLogger: [
        ("a number", "log_dir", lambda f: f(3)),
        ("None", "log_dir", lambda f: f(None)),
        ("an unknown word", "update_freq", lambda f: f("logs", "step")),
        ("no batches", "update_freq", lambda f: f("logs", 0)),
        ("an array", "update_freq", lambda f: f("logs", np.ones(2))),
        ("NaN", "update_freq", lambda f: f("logs", NAN)),
        (
            "a schedule",
            "pruning",
            lambda f: f("logs", pruning=PolynomialDecay(0.0, 0.5, 0, 10)),
        ),
        ("a negative size", "image_size", lambda f: f("logs", image_size=-1)),
        ("no masks", "model", lambda f: train(f("logs"), "dense")),
        ("no model", "model", lambda f: f("logs").on_train_begin()),
    ],
    tfmot.as_schedule: [
        ("None", "schedule", lambda f: f(None)),
        ("a class", "schedule", lambda f: f(PolynomialDecay)),
        ("a callback", "schedule", lambda f: f(L.ReLU())),
    ],
    tfmot.from_tfmot: [
        ("None", "model", lambda f: f(None)),
        ("a model of Keras 3", "model", lambda f: f(shared("masked"))),
        ("a class", "model", lambda f: f(L.Dense)),
        ("bytes", "model", lambda f: f(b"model.h5")),
        ("no file", Missing("model"), lambda f: f("no_such_file.h5")),
    ],
}


@pytest.mark.parametrize("function, argument, call", parameters(OF_TENSORFLOW))
def test_says_what_is_wrong(function, argument, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong_calls.check(function, argument, call)


def test_every_public_name_is_in_a_table():
    assert wrong_calls.uncovered([tfmot], OF_TENSORFLOW) == []
