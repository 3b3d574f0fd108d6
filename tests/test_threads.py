"""Two models in two threads do not meet, and nothing is left behind by many."""

import gc
import threading

import keras
import numpy as np
import pytest
from backends import BACKEND, assert_array_equal, values

import sparsenet_tf as stf
from sparsenet_tf.pruning import SNIP, PolynomialDecay, PruningCallback, prune_one_shot

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 8)).astype("float32")
Y = RNG.normal(size=(32, 3)).astype("float32")


def network(seed, sizes=(16, 3)):
    draw = keras.initializers.GlorotUniform
    layers = [
        keras.layers.Dense(n, kernel_initializer=draw(seed + i), name=f"dense{i}")
        for i, n in enumerate(sizes)
    ]
    model = keras.Sequential([keras.Input((8,)), *layers])
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    return model


def fit(model, *callbacks):
    model.fit(
        X, Y, batch_size=8, epochs=3, shuffle=False, verbose=0, callbacks=callbacks
    )


def work(seed):
    """What a user may do with a model; returns all that came out of it."""
    model = stf.sparsify(network(seed))
    schedule = PolynomialDecay(0.0, 0.5 + 0.1 * seed, 1, 9, frequency=2)
    fit(model, PruningCallback(schedule, scope="global"))
    masks = stf.get_masks(model)
    new = stf.rebuild(model, masks, seed)
    fit(new)
    sensitive = prune_one_shot(network(seed + 9), 0.6, SNIP(X, Y))
    dense = stf.to_dense(stf.to_sparse(new))
    found = [
        values(v).copy() for m in (model, new, sensitive, dense) for v in m.weights
    ]
    return found + list(masks.values())


def test_two_threads_do_as_one_after_the_other():
    expected = [work(seed) for seed in (1, 2)]
    for _ in range(3):
        found, errors = [None, None], []
        begin = threading.Barrier(2)

        def run(place, seed, found=found, errors=errors, begin=begin):
            try:
                begin.wait()
                found[place] = work(seed)
            except BaseException as error:  # or the thread would keep it
                errors.append(error)

        threads = [
            threading.Thread(target=run, args=(place, seed))
            for place, seed in enumerate((1, 2))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        for one, other in zip(expected, found, strict=True):
            for a, b in zip(one, other, strict=True):
                assert_array_equal(a, b)


def resident():
    """Resident memory of this process in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="measures TensorFlow's memory")
def test_a_thousand_cycles_leave_nothing_behind():
    def cycle(seed):
        model = stf.sparsify(network(seed))
        fit(model, PruningCallback(PolynomialDecay(0.0, 0.9, 1, 9, frequency=2)))
        masks = stf.get_masks(model)
        stf.retrain_from_scratch(
            model, masks, X, Y, seeds=[seed], batch_size=16, verbose=0
        )
        keras.utils.clear_session(free_memory=False)

    def settled():
        gc.collect()
        stf.sparsify(network(0))  # lets go of the graphs of what is gone
        gc.collect()
        return resident()

    for seed in range(100):
        cycle(seed)
    before = settled()
    for seed in range(100, 1000):
        cycle(seed)
    growth = settled() / before - 1
    assert growth <= 0.05, f"{growth:.1%} of {before / 1e6:.0f} MB"
