"""The same architecture with new weights on frozen masks."""

import random

import keras
import numpy as np
import pytest
from backends import assert_allclose, assert_array_equal, several_steps
from keras import layers

import sparsenet_tf as stf
from sparsenet_tf.layers import tree


def values(tensor):
    return keras.ops.convert_to_numpy(tensor)


def kernels_of(model):
    return {path: values(kernel) for path, kernel in tree.kernels(model).items()}


def all_values(model):
    return [values(weight) for weight in tree_weights(model)]


def tree_weights(model):
    return sorted(model.weights, key=lambda weight: weight.path)


def equal(one, other):
    one, other = list(kernels_of(one).values()), list(kernels_of(other).values())
    assert len(one) == len(other)
    return [bool(np.array_equal(a, b)) for a, b in zip(one, other, strict=True)]


def dense(initializer="glorot_uniform"):
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, name="a", kernel_initializer=initializer),
            layers.Dense(8, name="b", kernel_initializer=initializer),
            layers.Dense(3, name="c", kernel_initializer=initializer),
        ],
        name="net",
    )


def mixed():
    inner = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8, name="one"), layers.Dense(8, name="two")],
        name="inner",
    )
    x = keras.Input((6, 6, 2), name="x")
    y = layers.Conv2D(4, 3, name="conv")(x)
    y = layers.DepthwiseConv2D(2, name="depth")(y)
    y = layers.BatchNormalization(name="norm")(y)
    y = layers.Dense(8, name="dense")(layers.GlobalAveragePooling2D(name="pool")(y))
    shared = layers.Dense(8, name="shared")
    y = layers.Dropout(0.5, name="drop")(shared(inner(shared(y))))
    return keras.Model(x, layers.Dense(2, name="out")(y), name="mixed")


class Net(keras.Model):
    """A subclassed model that rebuilds itself from its config."""

    def __init__(self, units=5, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.units, self.seed = units, seed
        initializer = keras.initializers.GlorotUniform(seed)
        self.first = layers.Dense(units, kernel_initializer=initializer)
        self.blocks = [layers.Dense(units) for _ in range(2)]

    def call(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x

    def get_config(self):
        return {**super().get_config(), "units": self.units, "seed": self.seed}


class FixedSeeds(keras.Model):
    """Its layers always draw from the same seeds, which its config does not show."""

    def __init__(self):
        super().__init__(name="fixed")
        self.dense = layers.Dense(
            5, kernel_initializer=keras.initializers.GlorotUniform(seed=1)
        )

    def call(self, x):
        return self.dense(x)

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls()


@keras.saving.register_keras_serializable("test_rebuild")
class Composite(keras.layers.Layer):
    """A user's layer, with a Dense below it that its config does not show."""

    def __init__(self, units, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        initializer = keras.initializers.GlorotUniform(seed)
        self.dense = layers.Dense(units, kernel_initializer=initializer, name="below")

    def build(self, shape):
        self.dense.build(shape)
        self.built = True

    def call(self, x):
        return self.dense(x)

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class HiddenSeed(Composite):
    def __init__(self, units, **kwargs):
        super().__init__(units, seed=3, **kwargs)


def net(**kwargs):
    model = Net(**kwargs)
    model(np.ones((2, 6), "float32"))
    return model


def pruned_masks(model, sparsity=0.6):
    if isinstance(model, (keras.Sequential, keras.src.models.Functional)):
        sparse = stf.sparsify(model)
        return stf.get_masks(stf.pruning.prune_one_shot(sparse, sparsity))
    rng = np.random.default_rng(0)
    kernels = tree.kernels(model)
    return {path: rng.random(k.shape) > sparsity for path, k in kernels.items()}


# --- Seeds ---------------------------------------------------------------------------


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


# --- What is new, and what is kept ---------------------------------------------------


@pytest.mark.parametrize("make", [dense, mixed, net])
def test_nothing_of_the_old_weights_is_used(make):
    model = make()
    masks = pruned_masks(model)
    one = stf.rebuild(model, masks, seed=1)
    for weight in model.weights:
        weight.assign(np.full(weight.shape, np.nan))
    other = stf.rebuild(model, masks, seed=1)
    for a, b in zip(all_values(one), all_values(other), strict=True):
        assert np.isfinite(b).all()
        assert_array_equal(a, b)


@pytest.mark.parametrize("make", [dense, mixed, net])
def test_masks_hold_in_the_new_model(make):
    model = make()
    masks = pruned_masks(model)
    new = stf.rebuild(model, masks, seed=1)
    got = stf.get_masks(new)
    assert len(got) == len(masks)
    for mask, wanted in zip(got.values(), masks.values(), strict=True):
        assert_array_equal(mask, wanted)
    for kernel, mask in zip(kernels_of(new).values(), masks.values(), strict=True):
        assert_array_equal(kernel != 0, mask)


def test_masks_hold_in_training():
    model = mixed()
    masks = pruned_masks(model)
    new = stf.rebuild(model, masks, seed=1)
    new.compile(keras.optimizers.AdamW(0.05), "mse", run_eagerly=True)
    before = kernels_of(new)
    x = np.random.default_rng(0).normal(size=(16, 6, 6, 2))
    new.fit(x, np.ones((16, 2)), epochs=2, batch_size=4, verbose=0)
    for path, kernel in kernels_of(new).items():
        assert not kernel[~masks[path]].any()
        assert (kernel != before[path]).any()


@pytest.mark.parametrize("make", [dense, mixed, net])
def test_original_is_untouched(make):
    model = make()
    masks = pruned_masks(model)
    before = [values(weight) for weight in model.weights]
    parts = [(id(layer), type(layer)) for _, layer in tree.walk(model)]
    new = stf.rebuild(model, masks, seed=1, scale_to_fan_in=True)
    assert new is not model
    assert [(id(layer), type(layer)) for _, layer in tree.walk(model)] == parts
    for old, weight in zip(before, model.weights, strict=True):
        assert_array_equal(old, values(weight))
    new_ids = {id(weight) for weight in new.weights}
    assert not new_ids & {id(weight) for weight in model.weights}


def test_architecture_is_the_same():
    model = mixed()
    new = stf.strip(stf.rebuild(model, {}, seed=1))
    assert type(new) is type(model) and new.name == model.name
    assert [x.name for x in new.layers] == [x.name for x in model.layers]
    assert [type(x) for x in new.layers] == [type(x) for x in model.layers]
    assert [x.name for x in new.inputs] == [x.name for x in model.inputs]
    assert len(new.weights) == len(model.weights)
    assert (new.input_shape, new.output_shape) == (model.input_shape, (None, 2))
    new.set_weights(model.get_weights())
    x = np.random.default_rng(0).normal(size=(3, 6, 6, 2)).astype("float32")
    assert_allclose(values(new(x)), values(model(x)), atol=1e-6)


def test_biases_and_statistics_are_fresh():
    model = mixed()
    for weight in model.weights:
        weight.assign(np.full(weight.shape, 7.0))
    new = stf.rebuild(model, {}, seed=1)
    norm = new.get_layer("norm")
    assert not values(norm.moving_mean).any() and not values(norm.beta).any()
    assert (values(norm.moving_variance) == 1).all()
    assert not values(new.get_layer("out").bias).any()


def test_sparsified_model_equals_the_plain_one():
    model = mixed()
    masks = pruned_masks(model)
    sparse = stf.sparsify(model, {"dense/kernel": np.eye(4, 8, dtype=bool)})
    one, other = stf.rebuild(model, masks, 1), stf.rebuild(sparse, masks, 1)
    assert all(equal(one, other))


def test_sparsified_subclassed_model():
    model = net()
    plain = stf.rebuild(model, {}, seed=1)
    sparse = stf.pruning.prune_one_shot(model, 0.5)
    masks = stf.get_masks(sparse)
    new = stf.rebuild(sparse, masks, seed=1)
    assert type(new) is Net and new is not sparse
    for got, mask, full in zip(
        kernels_of(new).values(),
        masks.values(),
        kernels_of(plain).values(),
        strict=True,
    ):
        assert_array_equal(got, np.where(mask, full, 0))


def test_rebuilding_a_rebuilt_model():
    model = dense()
    masks = pruned_masks(model)
    one = stf.rebuild(model, masks, seed=1)
    assert all(equal(stf.rebuild(one, masks, seed=1), one))


def test_kernels_without_a_mask_stay_dense():
    new = stf.rebuild(dense(), {"b/kernel": np.eye(8, dtype=bool)}, seed=1)
    kernels = kernels_of(new)
    assert (kernels["a/kernel"] != 0).all() and (kernels["c/kernel"] != 0).all()
    assert np.count_nonzero(kernels["b/kernel"]) == 8


def test_masks_may_be_numbers():
    new = stf.rebuild(dense(), {"b/kernel": np.eye(8, dtype="int8")}, seed=1)
    assert np.count_nonzero(kernels_of(new)["b/kernel"]) == 8


def test_mask_chooses_among_the_same_draws():
    model = dense()
    full = kernels_of(stf.rebuild(model, {}, seed=1))
    masks = pruned_masks(model)
    sparse = kernels_of(stf.rebuild(model, masks, seed=1))
    for path, mask in masks.items():
        assert_array_equal(sparse[path], np.where(mask, full[path], 0))


def test_frozen_layers_stay_frozen():
    model = mixed()
    model.get_layer("conv").trainable = False
    model.get_layer("inner").get_layer("one").trainable = False
    new = stf.rebuild(model, {}, seed=1)
    assert new.get_layer("conv").trainable_weights == []
    assert new.get_layer("inner").get_layer("one").trainable_weights == []
    assert len(new.trainable_weights) == len(model.trainable_weights)


def test_subclassed_model_keeps_its_config():
    new = stf.rebuild(net(units=7), {}, seed=1)
    assert type(new) is Net and new.units == 7
    assert new(np.ones((2, 6), "float32")).shape == (2, 7)


def test_subclassed_model_that_makes_its_layers_in_build():
    class Late(keras.Model):
        def build(self, shape):
            self.dense = layers.Dense(3)
            self.dense.build(shape)
            self.built = True

        def call(self, x):
            return self.dense(x)

        def get_config(self):
            return {}

        @classmethod
        def from_config(cls, config):
            return cls()

    model = Late()
    model(np.ones((2, 6), "float32"))
    one, again, other = (stf.rebuild(model, {}, s) for s in (1, 1, 2))
    assert equal(one, again) == [True] and equal(one, other) == [False]


def subclassed_inside_functional():
    x = keras.Input((6,))
    return keras.Model(x, layers.Dense(2, name="out")(Net(name="body")(x)))


def users_layer_with_automatic_names():
    class Own(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = layers.Dense(6)

        def build(self, shape):
            self.dense.build(shape)
            self.built = True

        def call(self, x):
            return self.dense(x)

    return keras.Sequential([keras.Input((6,)), Own(name="own")])


@pytest.mark.parametrize(
    "make", [subclassed_inside_functional, users_layer_with_automatic_names]
)
def test_masks_of_a_pruned_copy_with_automatic_names(make):
    model = make()
    masks = stf.get_masks(stf.pruning.prune_one_shot(model, 0.5))
    assert list(masks) == list(tree.kernels(model))
    new = stf.rebuild(model, masks, seed=1)
    for kernel, mask in zip(kernels_of(new).values(), masks.values(), strict=True):
        assert_array_equal(kernel != 0, mask)


@pytest.mark.parametrize(
    "make", [subclassed_inside_functional, users_layer_with_automatic_names]
)
@pytest.mark.parametrize(
    "use",
    [stf.sparsify, lambda model, masks: stf.rebuild(model, masks, seed=1)],
    ids=["sparsify", "rebuild"],
)
def test_no_mask_is_lost_where_names_are_automatic(make, use):
    model = make()
    masks = {p: np.eye(*k.shape, dtype=bool) for p, k in tree.kernels(model).items()}
    got = stf.get_masks(use(model, masks)).values()
    for mask, wanted in zip(got, masks.values(), strict=True):
        assert_array_equal(mask, wanted)


def test_subclassed_model_inside_a_functional_one():
    model = subclassed_inside_functional()
    rng = np.random.default_rng(0)
    masks = {p: rng.random(k.shape) < 0.5 for p, k in tree.kernels(model).items()}
    one, again, other = (stf.rebuild(model, masks, s) for s in (1, 1, 2))
    assert all(equal(one, again)) and not any(equal(one, other))
    got = stf.get_masks(one)
    for mask, wanted in zip(got.values(), masks.values(), strict=True):
        assert_array_equal(mask, wanted)


# --- Compiled state ------------------------------------------------------------------


@pytest.mark.parametrize("make", [dense, net])
def test_compiled_as_before_with_a_fresh_optimizer(make):
    model = make()
    model.compile(
        keras.optimizers.Adam(0.5),
        "mae",
        metrics=["mse"],
        steps_per_execution=several_steps(3),
    )
    model.optimizer.learning_rate = 0.0125
    x, y = np.ones((6, 6)), np.ones((6, 3 if make is dense else 5))
    model.fit(x, y, verbose=0)
    new = stf.rebuild(model, {}, seed=1)
    assert new.compiled and new.optimizer is not model.optimizer
    assert isinstance(new.optimizer, keras.optimizers.Adam)
    assert float(new.optimizer.learning_rate) == pytest.approx(0.0125)
    assert int(new.optimizer.iterations) == 0
    assert (new.loss, new.steps_per_execution) == ("mae", several_steps(3))
    assert "mse" in new.evaluate(x, y, verbose=0, return_dict=True)
    assert int(model.optimizer.iterations) == 1


def own_loss(y, prediction):
    return keras.ops.mean(keras.ops.abs(y - prediction), axis=-1)


@pytest.mark.parametrize("make", [dense, net])
def test_compiled_with_the_users_own_loss_and_metric(make):
    model = make()
    model.compile("sgd", own_loss, metrics=[own_loss])
    new = stf.rebuild(model, {}, seed=1)
    assert new.compiled
    y = np.ones((6, 3 if make is dense else 5))
    results = new.evaluate(np.ones((6, 6)), y, verbose=0, return_dict=True)
    assert results["loss"] == pytest.approx(results["own_loss"])


def test_not_compiled_stays_so():
    assert not stf.rebuild(dense(), {}, seed=1).compiled


# --- scale_to_fan_in -----------------------------------------------------------------


def scales(model, masks):
    """`{path: scaled / unscaled}` of the kept weights, NaN where pruned."""
    plain = kernels_of(stf.rebuild(model, masks, seed=1)).values()
    scaled = kernels_of(stf.rebuild(model, masks, seed=1, scale_to_fan_in=True))
    with np.errstate(invalid="ignore"):
        ratios = [a / b for a, b in zip(scaled.values(), plain, strict=True)]
    return dict(zip(tree.kernels(model), ratios, strict=True))


def assert_scales(got, mask, expected):
    expected = np.where(mask, np.broadcast_to(expected, mask.shape), np.nan)
    assert_allclose(got, expected, rtol=1e-5)


def test_scale_of_dense_by_hand():
    mask = np.zeros((4, 3), bool)
    mask[:1, 0] = mask[:2, 1] = mask[:, 2] = True
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a")])
    got = scales(model, {"a/kernel": mask})["a/kernel"]
    assert_scales(got, mask, [2.0, np.sqrt(2), 1.0])


def test_an_output_without_any_connection_stays_zero():
    mask = np.ones((4, 3), bool)
    mask[:, 1] = False
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a")])
    new = stf.rebuild(model, {"a/kernel": mask}, 1, scale_to_fan_in=True)
    kernel = kernels_of(new)["a/kernel"]
    assert np.isfinite(kernel).all() and not kernel[:, 1].any()


def spatial_model():
    return keras.Sequential(
        [
            keras.Input((9, 9, 4)),
            layers.Conv2D(5, 3, name="conv"),
            layers.DepthwiseConv2D(2, depth_multiplier=3, name="depth"),
            layers.Conv2DTranspose(2, 3, name="up"),
            layers.EinsumDense("abcd,def->abcef", (None, None, 3, 2), name="einsum"),
        ]
    )


def test_scale_of_every_kind_of_kernel():
    model = spatial_model()
    rng = np.random.default_rng(0)
    masks = {p: rng.random(k.shape) < 0.6 for p, k in tree.kernels(model).items()}
    got = scales(model, masks)
    summed = {
        "conv/kernel": (0, 1, 2),
        "depth/kernel": (0, 1),
        "up/kernel": (0, 1, 3),
        "einsum/kernel": (0,),
    }
    for path, axes in summed.items():
        mask = masks[path]
        fan_in = np.prod([mask.shape[axis] for axis in axes])
        kept = np.maximum(1, mask.sum(axis=axes, keepdims=True))
        assert_scales(got[path], mask, np.sqrt(fan_in / kept))


def test_pre_activations_have_the_variance_of_the_dense_network():
    model = keras.Sequential(
        [
            keras.Input((1000,)),
            layers.Dense(300, name="a", kernel_initializer="he_normal"),
        ]
    )
    rng = np.random.default_rng(0)
    masks = {"a/kernel": rng.random((1000, 300)) < 0.1}
    x = rng.normal(size=(200, 1000)).astype("float32")
    plain = values(stf.rebuild(model, masks, 1)(x)).std()
    scaled = values(stf.rebuild(model, masks, 1, scale_to_fan_in=True)(x)).std()
    assert scaled == pytest.approx(np.sqrt(2), rel=0.05)
    assert plain == pytest.approx(np.sqrt(0.2), rel=0.05)


def test_scale_of_an_embedding_is_one():
    model = keras.Sequential(
        [keras.Input((3,), dtype="int32"), layers.Embedding(6, 4, name="e")]
    )
    mask = np.random.default_rng(0).random((6, 4)) < 0.5
    assert_scales(
        scales(model, {"e/embeddings": mask})["e/embeddings"], mask, np.ones(4)
    )


def test_scale_of_a_full_mask_is_one():
    model = dense()
    for path, got in scales(model, {}).items():
        assert_array_equal(got, np.ones_like(got), err_msg=path)


def test_scale_in_a_subclassed_model():
    model = net()
    masks = pruned_masks(model)
    got = scales(model, masks)
    for path, mask in masks.items():
        kept = np.maximum(1, mask.sum(axis=0))
        assert_scales(got[path], mask, np.sqrt(mask.shape[0] / kept))


# --- Errors --------------------------------------------------------------------------


def test_model_that_is_not_built():
    model = keras.Sequential([layers.Dense(3)], name="later")
    with pytest.raises(ValueError, match="`model` must be built.*'later'"):
        stf.rebuild(model, {}, seed=1)


def test_something_else_than_a_model():
    with pytest.raises(TypeError, match="`model` must be a keras.Model"):
        stf.rebuild(layers.Dense(3), {}, seed=1)


@pytest.mark.parametrize("seed", [-1, -(2**40)])
def test_negative_seed(seed):
    with pytest.raises(ValueError, match=f"`seed` must be 0 or more.*{seed}"):
        stf.rebuild(dense(), {}, seed=seed)


@pytest.mark.parametrize("seed", [None, 1.0, "1", True])
def test_seed_that_is_no_integer(seed):
    with pytest.raises(TypeError, match="`seed` must be an integer"):
        stf.rebuild(dense(), {}, seed=seed)


@pytest.mark.parametrize("masks", [None, [], np.ones((6, 8), bool)])
def test_masks_that_are_no_dict(masks):
    with pytest.raises(TypeError, match="`masks` must be a dict"):
        stf.rebuild(dense(), masks, seed=1)


@pytest.mark.parametrize("path", ["d/kernel", "a", "kernel", "a/bias", ""])
def test_unknown_path(path):
    with pytest.raises(ValueError, match="`masks` must name kernels of model 'net'"):
        stf.rebuild(dense(), {path: np.ones((6, 8), bool)}, seed=1)


@pytest.mark.parametrize(
    "mask, message",
    [
        (np.ones((8, 6), bool), r"must have shape \(6, 8\)"),
        (np.ones(48, bool), r"must have shape \(6, 8\)"),
        (np.full((6, 8), 2), "only 0 and 1"),
        (np.full((6, 8), "x"), "dtype"),
    ],
)
def test_mask_that_does_not_fit(mask, message):
    with pytest.raises(ValueError, match=f"`mask` of kernel 'a/kernel'.*{message}"):
        stf.rebuild(dense(), {"a/kernel": mask}, seed=1)


def test_subclassed_model_without_a_config():
    class Silent(keras.Model):
        def __init__(self, layer):
            super().__init__(name="silent")
            self.layer = layer

        def call(self, x):
            return self.layer(x)

    model = Silent(layers.Dense(3))
    model.get_config = lambda: {}
    model(np.ones((1, 2), "float32"))
    with pytest.raises(ValueError, match="`model` must rebuild itself.*Silent"):
        stf.rebuild(model, {}, seed=1)
