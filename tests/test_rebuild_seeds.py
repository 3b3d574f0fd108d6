"""Seeds of rebuilt models: all that is drawn follows them, and nothing else does."""

import random

import keras
import numpy as np
import pytest
from keras import layers
from rebuild_models import (
    Composite,
    FixedSeeds,
    HiddenSeed,
    Net,
    dense,
    equal,
    kernels_of,
    mixed,
    net,
    pruned_masks,
    values,
)

import sparsenet_tf as stf


@pytest.mark.parametrize("make", [dense, mixed, net])
def test_same_seed_same_weights_other_seed_other_weights(make):
    model = make()
    masks = pruned_masks(model)
    one = stf.rebuild(model, masks, seed=1)
    random.random(), np.random.random()  # the caller's draws must not matter
    keras.utils.set_random_seed(99)
    again = stf.rebuild(model, masks, seed=1)
    other = stf.rebuild(model, masks, seed=2)
    assert all(equal(one, again))
    assert not any(equal(one, other))


INITIALIZERS = {
    "name": "he_normal",
    "no seed": keras.initializers.HeUniform(),
    "fixed seed": keras.initializers.GlorotUniform(seed=5),
    "seed 0": keras.initializers.RandomNormal(stddev=0.1, seed=0),
    "truncated": keras.initializers.TruncatedNormal(seed=5),
    "orthogonal": keras.initializers.Orthogonal(seed=5),
    "generator": keras.initializers.GlorotUniform(keras.random.SeedGenerator(5)),
}


@pytest.mark.parametrize("name", INITIALIZERS)
def test_every_initializer_is_seeded(name):
    model = dense(INITIALIZERS[name])
    masks = {"b/kernel": np.random.default_rng(0).random((8, 8)) < 0.5}
    one, again, other = (stf.rebuild(model, masks, seed) for seed in (1, 1, 2))
    assert all(equal(one, again))
    assert not any(equal(one, other)) and not any(equal(one, model))
    a, b = (values(one.get_layer(n).layer.kernel) for n in "ab")
    assert not np.isin(b[b != 0], a).any()  # two layers, two seeds


def own_initializer(shape, dtype=None):
    return keras.random.normal(shape, dtype=dtype)


def own_numpy_initializer(shape, dtype=None):
    return np.random.normal(size=shape).astype("float32")


@pytest.mark.parametrize("initializer", [own_initializer, own_numpy_initializer])
def test_a_users_initializer_that_draws_from_global_generators(initializer):
    model = dense(initializer)
    one, again, other = (stf.rebuild(model, {}, seed) for seed in (1, 1, 2))
    assert all(equal(one, again))
    assert not any(equal(one, other))


def test_all_kernels_of_a_layer_are_seeded():
    model = keras.Sequential(
        [
            keras.Input((3, 4)),
            layers.LSTM(3, kernel_initializer=keras.initializers.HeNormal(1), name="l"),
        ]
    )
    one, again, other = (stf.rebuild(model, {}, seed) for seed in (1, 1, 2))
    assert equal(one, again) == [True, True] and equal(one, other) == [False, False]


@pytest.mark.parametrize("seed", [None, 7])
def test_subclassed_models_with_a_seed_in_the_config(seed):
    model = net(seed=seed)
    one, again, other = (stf.rebuild(model, {}, s) for s in (1, 1, 2))
    assert equal(one, again) == [True] * 3 and equal(one, other) == [False] * 3


def test_fixed_seeds_in_the_code_of_a_subclassed_model():
    model = FixedSeeds()
    model(np.ones((1, 6), "float32"))
    one, again, other = (stf.rebuild(model, {}, s) for s in (1, 1, 2))
    assert equal(one, again) == [True] and equal(one, other) == [False]


@pytest.mark.parametrize("cls", [Composite, HiddenSeed])
def test_fixed_seeds_in_the_code_of_a_users_layer(cls):
    model = keras.Sequential([keras.Input((6,)), cls(5, name="own")])
    one, again, other = (stf.rebuild(model, {}, s) for s in (1, 1, 2))
    assert equal(one, again) == [True] and equal(one, other) == [False]


def test_large_seeds():
    model = dense()
    seeds = (0, 2**32 - 1, 2**32, 2**63, np.int64(5))
    first = [kernels_of(stf.rebuild(model, {}, s))["a/kernel"][0, 0] for s in seeds]
    assert len(set(first)) == len(seeds)
    same = stf.rebuild(model, {}, 5), stf.rebuild(model, {}, np.int64(5))
    assert all(equal(*same))


def test_global_random_states_are_untouched():
    model = mixed()
    masks = pruned_masks(model)
    python, numpy = random.getstate(), np.random.get_state()
    stf.rebuild(model, masks, seed=1)
    assert random.getstate() == python
    np.testing.assert_equal(np.random.get_state(), numpy)


def test_global_random_states_are_untouched_by_a_failure():
    class Broken(Net):
        @classmethod
        def from_config(cls, config):
            random.random(), np.random.random()
            raise RuntimeError("no")

    model = Broken()
    model(np.ones((1, 6), "float32"))
    python, numpy = random.getstate(), np.random.get_state()
    with pytest.raises(ValueError):
        stf.rebuild(model, {}, seed=1)
    assert random.getstate() == python
    np.testing.assert_equal(np.random.get_state(), numpy)
