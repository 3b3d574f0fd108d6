"""Models for the tests of `rebuild`, and what they compare."""

import keras
import numpy as np
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
