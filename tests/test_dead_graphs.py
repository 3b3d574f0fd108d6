"""What TensorFlow is let forget: graphs of models that are gone, and no others."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import ops

import sparsenet_tf as stf
from sparsenet_tf.kernels.dead_graphs import forget_dead_graphs

X, LABELS = np.ones((8, 4), "float32"), np.zeros(8, int)


def registered():
    return {n for n in ops.gradient_registry._registry if "CustomGradient" in n}


def trained():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(X, LABELS, verbose=0, batch_size=4)
    return model


@pytest.fixture
def before():
    gc.collect()
    forget_dead_graphs()
    return registered()


def test_graphs_of_models_that_are_gone(before):
    model = trained()
    here = registered() - before
    # Were this empty, TensorFlow would let go by itself.
    assert here
    gc.collect()
    assert forget_dead_graphs() == 0 and registered() - before == here
    model.fit(X, LABELS, verbose=0)
    del model
    gc.collect()
    assert forget_dead_graphs() >= len(here)
    assert registered() <= before


@pytest.mark.parametrize("loop", [False, True])
def test_what_this_package_trains_leaves_none(before, loop):
    for seed in range(3):
        model = stf.pruning.prune_one_shot(trained(), 0.5)
        if loop:
            stf.training.fit(model, X, LABELS, steps=4, batch_size=4)
        else:
            stf.retrain_from_scratch(
                model, stf.get_masks(model), X, LABELS, seeds=[seed], verbose=0
            )
        assert registered() - before
        del model
        gc.collect()
    stf.sparsify(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]))
    assert registered() <= before


def test_functions_that_can_be_called_keep_their_gradients(before):
    @tf.custom_gradient
    def doubled(x):
        return x * 2.0, lambda upstream: upstream * 5.0

    def traced(weight):
        function = tf.function(lambda x: doubled(x) * weight)
        function(1.0)
        return function

    weight = tf.Variable(3.0)
    function, of_no_variable = traced(weight), traced(1.0)
    traced(tf.Variable(1.0))
    gc.collect()
    assert forget_dead_graphs() == 1
    x = tf.constant(1.0)
    for called, expected in ((function, 15.0), (of_no_variable, 5.0)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = called(x)
        assert float(tape.gradient(y, x)) == expected
