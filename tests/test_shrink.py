"""`strip(shrink=True)`: layers get smaller, outputs stay, what is unknown is kept."""

import keras
import numpy as np
import pytest
from backends import BACKEND, assert_allclose, values
from keras import layers as L

import sparsenet_tf as stf
from sparsenet_tf.experiments import lenet_300_100
from sparsenet_tf.pruning import Units, prune_one_shot


def randomize(model, seed=0):
    """Any weights, so that biases, norms and their statistics all matter."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        low = 0.5 if variable.path.endswith("variance") else -1.0
        variable.assign(rng.uniform(low, 1.5, variable.shape))
    return model


def kill(model, **units):
    """Set the incoming weights of these units of layers to zero."""
    for name, dead in units.items():
        kernel = values(model.get_layer(name).kernel).copy()
        kernel[..., dead] = 0
        model.get_layer(name).kernel.assign(kernel)
    return model


def inputs_of(model, seed=1):
    rng = np.random.default_rng(seed)
    return [
        rng.normal(size=(3, *(5 if d is None else d for d in x.shape[1:]))).astype("f")
        for x in model.inputs
    ]


def outputs(model, x):
    return [values(y) for y in keras.tree.flatten(model(x))]


def shrunk(model):
    """The smaller model, once its outputs are known to be the same."""
    small = stf.strip(model, shrink=True)
    x = inputs_of(model)
    x = x[0] if len(x) == 1 else x
    for before, after in zip(outputs(model, x), outputs(small, x), strict=True):
        scale = max(np.abs(before).max(), 1.0)  # sums of numbers as large as these
        np.testing.assert_allclose(after / scale, before / scale, rtol=0, atol=1e-5)
    return small


def shapes(model):
    """The kernels' shapes by the layers' names."""
    return {
        layer.name: tuple(layer.kernel.shape)
        for layer in model.layers
        if hasattr(layer, "kernel")
    }


def dense_after(*between, units=4, shape=(3,)):
    """A Dense layer "a" of some units, other layers, and a Dense layer "b"."""
    model = keras.Sequential([keras.Input(shape), L.Dense(units, "relu", name="a")])
    for layer in [*between, L.Dense(2, name="b")]:
        model.add(layer)
    return randomize(model)


def test_by_hand():
    model = keras.Sequential(
        [keras.Input((2,)), L.Dense(3, "relu", name="a"), L.Dense(1, name="b")]
    )
    kernels = np.array([[1, 0, 2], [3, 0, 4]]), np.array([[1], [10], [3]])
    bias = np.array([0.5, 2, -1])
    model.set_weights([kernels[0], bias, kernels[1], np.array([0.25])])
    small = stf.strip(model, shrink=True)
    expected = [[[1, 2], [3, 4]], [0.5, -1], [[1], [3]], [0.25 + 2 * 10]]
    for value, wanted in zip(small.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(value, wanted)
    assert model.count_params() == 13 and small.count_params() == 9


def test_a_convolution_by_hand():
    model = keras.Sequential(
        [keras.Input((4, 1)), L.Conv1D(2, 2, name="a"), L.Conv1D(1, 2, name="b")]
    )
    kernel = np.array([[[1, 0]], [[2, 0]]]), np.array([[[1], [5]], [[2], [7]]])
    model.set_weights([kernel[0], np.array([0, 3]), kernel[1], np.array([1])])
    small = shrunk(model)
    expected = [[[[1]], [[2]]], [0], [[[1]], [[2]]], [1 + 3 * (5 + 7)]]
    for value, wanted in zip(small.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_lenet_300_100():
    model = randomize(lenet_300_100())
    pruned = prune_one_shot(model, 0.8, exclude="logits", structure=Units())
    small = shrunk(pruned)
    assert list(shapes(small).values()) == [(784, 60), (60, 20), (20, 10)]
    count = 784 * 60 + 60 + 60 * 20 + 20 + 20 * 10 + 10
    assert small.count_params() == count == 48_530
    assert stf.strip(pruned).count_params() == model.count_params() == 266_610


def lenet_5_with_norms():
    return keras.Sequential(
        [
            keras.Input((16, 16, 2)),
            L.Conv2D(6, 3, name="conv1", use_bias=False),
            L.BatchNormalization(name="norm1"),
            L.ReLU(),
            L.MaxPooling2D(2),
            L.Conv2D(8, 3, name="conv2", activation="tanh"),
            L.BatchNormalization(name="norm2", scale=False),
            L.AveragePooling2D(2),
            L.Dropout(0.5),
            L.Flatten(),
            L.Dense(12, name="dense", use_bias=False),
            L.LeakyReLU(),
            L.Dense(3, "softmax", name="logits"),
        ]
    )


def test_convolutions_norms_pools_and_flatten():
    model = randomize(lenet_5_with_norms())
    small = shrunk(prune_one_shot(model, 0.5, exclude="logits", structure=Units()))
    assert shapes(small) == {
        "conv1": (3, 3, 2, 3),
        "conv2": (3, 3, 3, 4),
        "dense": (2 * 2 * 4, 6),
        "logits": (6, 3),
    }
    norms = [len(w) for n in (1, 2) for w in small.get_layer(f"norm{n}").get_weights()]
    assert norms == [3, 3, 3, 3, 4, 4, 4]
    # The constants behind the norms are more than a layer without bias can hold.
    assert small.get_layer("dense").use_bias and not model.get_layer("dense").use_bias


def test_a_residual_loses_what_is_dead_in_all_its_inputs():
    x = keras.Input((8, 8, 3))
    one = L.Conv2D(6, 3, padding="same", activation="relu", name="one")(x)
    two = L.Conv2D(5, 1, activation="relu", name="two")(one)
    two = L.Conv2D(6, 3, padding="valid", name="three")(L.ZeroPadding2D()(two))
    y = L.ReLU()(L.Add()([one, two]))
    y = L.Dense(4, name="out")(L.GlobalAveragePooling2D()(y))
    model = kill(randomize(keras.Model(x, y)), one=[0, 1, 2], two=[4], three=[1, 2, 5])
    bias = values(model.get_layer("two").bias).copy()
    bias[4] = -1.0  # through ReLU a zero, which the padding leaves a constant
    model.get_layer("two").bias.assign(bias)
    small = shrunk(model)
    assert shapes(small) == {
        "one": (3, 3, 3, 4),
        "two": (1, 1, 4, 4),
        "three": (3, 3, 4, 4),
        "out": (4, 4),
    }


def mobile(first_bias=True):
    """A block of a MobileNet."""
    x = keras.Input((9, 9, 3))
    y = L.Conv2D(6, 1, use_bias=first_bias, name="expand", activation="relu6")(x)
    y = L.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False, name="each")(y)
    y = L.BatchNormalization(name="norm")(y)
    y = L.Conv2D(5, 1, use_bias=False, name="project")(L.ReLU(6.0)(y))
    y = L.GlobalMaxPooling2D(keepdims=True)(y)
    return randomize(keras.Model(x, L.Conv2D(2, 1, name="logits")(y)))


def test_a_depthwise_block_shrinks_from_end_to_end():
    model = kill(mobile(), expand=[0, 3], project=[4])
    small = shrunk(model)
    assert shapes(small) == {
        "expand": (1, 1, 3, 4),
        "each": (3, 3, 4, 2),
        "project": (1, 1, 8, 4),
        "logits": (1, 1, 4, 2),
    }
    # 3*4+4, 9*8, 4*8, 8*4+4 for the constants of the norm, 4*2+2
    assert small.count_params() == 16 + 72 + 32 + 36 + 10


def test_a_channel_without_depthwise_weights_takes_along_what_feeds_it_alone():
    model = mobile()
    kernel = values(model.get_layer("each").kernel).copy()
    kernel[:, :, 1] = 0
    kernel[:, :, 2, 1] = 0  # half of a channel stays
    model.get_layer("each").kernel.assign(kernel)
    small = shrunk(model)
    assert shapes(small)["expand"] == (1, 1, 3, 5)
    assert shapes(small)["each"] == (3, 3, 5, 2)


def test_constants_other_than_zero_stop_at_padding():
    def model(bias):
        x = keras.Input((6, 6, 2))
        y = L.Conv2D(4, 3, padding="same", activation="relu", name="a")(x)
        y = L.Conv2D(3, 3, padding="same", name="b")(y)
        made = kill(randomize(keras.Model(x, L.Flatten()(y))), a=[1, 2])
        made.get_layer("a").bias.assign([1.0, bias, -1.0, 1.0])
        return made

    assert shapes(shrunk(model(-1.0))) == {"a": (3, 3, 2, 2), "b": (3, 3, 2, 3)}
    assert shapes(shrunk(model(0.5))) == {"a": (3, 3, 2, 3), "b": (3, 3, 3, 3)}


def test_padded_averages_of_constants_are_constants():
    x = keras.Input((7, 7, 2))
    y = L.Conv2D(4, 3, name="a")(x)
    y = L.AveragePooling2D(3, padding="same")(y)
    y = L.MaxPooling2D(2, padding="same")(y)
    model = kill(randomize(keras.Model(x, L.Conv2D(2, 1, name="b")(y))), a=[1, 2])
    assert shapes(shrunk(model)) == {"a": (3, 3, 2, 2), "b": (1, 1, 2, 2)}


def test_units_that_only_dead_units_feed_are_dead():
    x = keras.Input((3,))
    y = L.Dense(4, "relu", name="a")(x)
    y = L.Dense(3, "sigmoid", name="b")(y)
    model = randomize(keras.Model(x, L.Dense(2, name="c")(y)))
    kernel = values(model.get_layer("b").kernel).copy()
    kernel[:2, 1] = 0  # unit 1 reads the units 2 and 3 alone
    model.get_layer("b").kernel.assign(kernel)
    kill(model, a=[2, 3])
    assert shapes(shrunk(model)) == {"a": (3, 2), "b": (2, 2), "c": (2, 2)}


def test_a_layer_of_dead_units_keeps_one():
    model = kill(dense_after(), a=[0, 1, 2, 3])
    assert shapes(shrunk(model)) == {"a": (3, 1), "b": (1, 2)}


def test_concatenated_channels_go_one_by_one():
    x = keras.Input((4, 4, 2))
    parts = [L.Conv2D(3, 1, name=f"part{i}")(x) for i in range(2)]
    y = L.Concatenate()([parts[0], x, parts[1]])
    y = L.Conv2D(2, 2, name="out")(y)
    model = kill(randomize(keras.Model(x, y)), part0=[0], part1=[1, 2])
    assert shapes(shrunk(model)) == {
        "part0": (1, 1, 2, 2),
        "part1": (1, 1, 2, 1),
        "out": (2, 2, 5, 2),
    }


@pytest.mark.parametrize("merge", [L.Multiply(), L.Maximum(), lambda x: x[0] + x[1]])
def test_merges_of_two_branches(merge):
    x = keras.Input((3,))
    one, two = (L.Dense(4, "tanh", name=name)(x) for name in ("one", "two"))
    y = L.Dense(2, name="out")(merge([one, two]))
    model = kill(randomize(keras.Model(x, y)), one=[0, 1, 3], two=[1, 2, 3])
    assert shapes(shrunk(model)) == {"one": (3, 2), "two": (3, 2), "out": (2, 2)}


@pytest.mark.parametrize("axis", [1, 2])
def test_concatenation_along_time_keeps_all(axis):
    x = keras.Input((5, 3))
    parts = [L.Dense(4, name=f"part{i}")(x) for i in range(2)]
    y = L.Dense(2, name="out")(L.Concatenate(axis=axis)(parts))
    model = kill(randomize(keras.Model(x, y)), part0=[0], part1=[0])
    assert shapes(shrunk(model))["part0"] == ((3, 4) if axis == 1 else (3, 3))


class Mixing(keras.layers.Layer):
    """A user's layer, of which nothing can be known."""

    def call(self, x):
        return x - keras.ops.mean(x, axis=-1, keepdims=True)


class Own(L.Dense):
    """A class of the user's own may do anything in its call."""

    def call(self, x):
        return super().call(x) + keras.ops.sum(x, axis=-1, keepdims=True)


def less_the_first(x):
    return x - x[:, :1]


UNKNOWN = {
    "softmax": lambda: [L.Softmax()],
    "softmax activation": lambda: [L.Activation("softmax")],
    "layer of one's own": lambda: [Mixing()],
    "subclass of Dense": lambda: [Own(4)],
    "activation of one's own": lambda: [L.Activation(less_the_first)],
    "layer normalization": lambda: [L.LayerNormalization()],
    "reshape": lambda: [L.Reshape((2, 2)), L.Flatten()],
    "permute": lambda: [L.Reshape((2, 2)), L.Permute((2, 1)), L.Flatten()],
    "recurrence": lambda: [L.Reshape((1, 4)), L.SimpleRNN(3)],
    "dropout of a fixed shape": lambda: [L.Dropout(0.5, noise_shape=(None, 4))],
    "alpha dropout of one": lambda: [L.AlphaDropout(0.5, noise_shape=(None, 4))],
    "nested model": lambda: [
        keras.Sequential([keras.Input((4,)), L.Dense(4, name="in"), L.ReLU()])
    ],
    "grouped convolution": lambda: [
        L.Reshape((1, 4)),
        L.Conv1D(2, 1, groups=2),
        L.Flatten(),
    ],
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_unknown_is_kept(name):
    model = kill(dense_after(*UNKNOWN[name]()), a=[1])
    small = shrunk(model)
    assert tuple(small.get_layer("a").kernel.shape) == (3, 4)
    assert small.count_params() == model.count_params()


def test_a_layer_that_is_called_twice_is_kept():
    x = keras.Input((4,))
    shared = L.Dense(4, "relu", name="shared")
    model = keras.Model(x, L.Dense(2, name="out")(shared(shared(x))))
    small = shrunk(kill(randomize(model), shared=[1]))
    assert shapes(small) == {"shared": (4, 4), "out": (4, 2)}


def test_a_layer_that_a_nested_model_has_too_is_kept():
    x = keras.Input((4,))
    shared = L.Dense(4, "relu", name="shared")
    inner = keras.Sequential([keras.Input((4,)), shared], name="inner")
    model = keras.Model(x, L.Dense(2, name="out")(L.Add()([shared(x), inner(x)])))
    small = shrunk(kill(randomize(model), shared=[1]))
    assert shapes(small) == {"shared": (4, 4), "out": (4, 2)}


def test_a_call_with_arguments_is_kept():
    x = keras.Input((3,))
    y = L.BatchNormalization(name="norm")(L.Dense(4, name="a")(x), training=True)
    model = kill(randomize(keras.Model(x, L.Dense(2, name="b")(y))), a=[1])
    assert stf.strip(model, shrink=True).get_layer("a").units == 4


def test_outputs_stay_also_those_inside():
    x = keras.Input((3,))
    hidden = L.Dense(4, "relu", name="hidden")(x)
    y = L.Dense(3, name="y")(hidden)
    model = kill(randomize(keras.Model(x, [hidden, y])), hidden=[1], y=[0])
    assert shapes(shrunk(model)) == {"hidden": (3, 4), "y": (4, 3)}


def test_a_model_of_several_inputs():
    one, two = keras.Input((3,)), keras.Input((2,))
    y = L.Add()([L.Dense(4, name="one")(one), L.Dense(4, name="two")(two)])
    y = L.Dense(1, name="out")(y)
    model = kill(randomize(keras.Model([one, two], y)), one=[1, 2], two=[2, 3])
    assert shapes(shrunk(model)) == {"one": (3, 3), "two": (2, 3), "out": (3, 1)}


@pytest.mark.skipif(BACKEND == "tensorflow", reason="its CPU has no channels first")
def test_channels_first():
    first = {"data_format": "channels_first"}
    x = keras.Input((2, 8, 8))
    y = L.Conv2D(4, 3, name="a", activation="relu", **first)(x)
    y = L.MaxPooling2D(2, **first)(L.BatchNormalization(axis=1)(y))
    model = keras.Model(x, L.Dense(3, name="b")(L.Flatten(**first)(y)))
    small = shrunk(kill(randomize(model), a=[0, 2]))
    assert shapes(small) == {"a": (3, 3, 2, 2), "b": (2 * 9, 3)}
    # A Dense layer that takes the last axis for the channels mixes positions.
    model = keras.Model(x, L.Dense(3, name="c")(L.Conv2D(4, 3, name="a", **first)(x)))
    assert shapes(shrunk(kill(randomize(model), a=[0])))["a"] == (3, 3, 2, 4)


def test_layers_of_nonzeros_become_dense_and_shrink():
    mask = np.ones((6, 5), bool)
    mask[:, [0, 3]] = False
    model = keras.Sequential(
        [keras.Input((6,)), stf.layers.SparseDense(mask, "relu"), L.Dense(2, name="b")]
    )
    small = shrunk(randomize(model))
    assert [type(layer) for layer in small.layers] == [L.Dense, L.Dense]
    assert small.layers[0].units == 3


def test_initializers_that_are_arrays():
    array = np.ones((3, 4), "float32")
    array[:, 2] = 0
    constant = keras.initializers.Constant
    model = keras.Sequential(
        [
            keras.Input((3,)),
            L.Dense(4, kernel_initializer=constant(array), name="a"),
            L.BatchNormalization(beta_initializer=constant(np.arange(4.0))),
            L.Dense(2, bias_initializer=constant(0.5), name="b"),
        ]
    )
    small = shrunk(model)
    assert shapes(small) == {"a": (3, 3), "b": (3, 2)}
    assert small.get_layer("b").bias_initializer.value == 0.5


def test_bfloat16():
    keras.config.set_dtype_policy("bfloat16")
    model = kill(dense_after(), a=[1, 3])
    small = stf.strip(model, shrink=True)
    x = inputs_of(model)[0]
    assert small.layers[0].units == 2 and small.layers[0].kernel.dtype == "bfloat16"
    assert_allclose(values(small(x)), values(model(x)), rtol=0.05, atol=0.05)


@pytest.mark.filterwarnings("ignore:.*training fills its zeros:UserWarning")
def test_a_small_model_is_plain_and_trains(tmp_path):
    model = prune_one_shot(
        lenet_5_with_norms(), 0.5, exclude="logits", structure=Units()
    )
    model.compile("adam", "mse", metrics=["mae"])
    before = [values(v).copy() for v in model.variables]
    small = shrunk(model)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(values(variable), value)
    path = tmp_path / "small.keras"
    small.save(path)
    loaded = keras.models.load_model(path)
    assert not any(
        type(layer).__module__.startswith("sparsenet") for layer in loaded.layers
    )
    x = inputs_of(small)[0]
    assert_allclose(loaded(x), small(x))
    assert [layer.name for layer in small.layers] == [x.name for x in model.layers]
    for each in (small, loaded):
        kernel = values(each.get_layer("conv1").kernel).copy()
        history = each.fit(x, np.ones((3, 3), "float32"), epochs=1, verbose=0)
        assert set(history.history) == {"loss", "mae"}
        assert np.any(values(each.get_layer("conv1").kernel) != kernel)


def test_nothing_dead_is_a_copy():
    model = randomize(lenet_5_with_norms())
    small = shrunk(model)
    for mine, theirs in zip(small.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert small is not model


def test_what_cannot_be_walked_is_refused():
    class Net(keras.Model):
        def __init__(self):
            super().__init__(name="net")
            self.dense = L.Dense(2)

        def call(self, x):
            return self.dense(x)

    net = stf.sparsify(Net())
    net(np.ones((1, 2), "float32"))
    with pytest.raises(ValueError, match="`shrink` must be False.*class Net"):
        stf.strip(net, shrink=True)
    assert stf.layers.masked.masked_kernels(net)  # as it was
    with pytest.raises(ValueError, match="`model` must be built"):
        stf.strip(keras.Sequential([L.Dense(2)]), shrink=True)


# Any network: random layers, random zeros.


def random_model(seed):
    rng = np.random.default_rng(seed)
    x = y = keras.Input((9, 9, 2))
    skips = []
    activations = ["relu", "tanh", "sigmoid", None, "softmax"]
    for _ in range(rng.integers(3, 9)):
        choice = rng.integers(0, 9)
        padding = ["same", "valid"][rng.integers(2)] if y.shape[1] > 4 else "same"
        activation = activations[rng.choice(5, p=[0.4, 0.2, 0.1, 0.2, 0.1])]
        options = {"activation": activation, "use_bias": bool(rng.integers(2))}
        if choice < 3:
            size = int(rng.integers(1, 4))
            y = L.Conv2D(int(rng.integers(2, 7)), size, padding=padding, **options)(y)
        elif choice == 3:
            times = int(rng.integers(1, 3))
            y = L.DepthwiseConv2D(2, 1, padding, times, **options)(y)
        elif choice == 4:
            y = L.BatchNormalization(scale=bool(rng.integers(2)))(y)
        elif choice == 5:
            y = L.AveragePooling2D(2, 1, padding)(y)
        elif choice == 6:
            y = L.ZeroPadding2D(1)(L.ReLU(negative_slope=0.1)(y))
        else:
            others = [s for s in skips if s.shape[1:3] == y.shape[1:3]]
            same = [s for s in others if s.shape == y.shape]
            if choice == 7 and same:
                y = L.Add()([y, same[rng.integers(len(same))]])
            elif others:
                y = L.Concatenate()([others[rng.integers(len(others))], y])
            else:
                y = L.Dropout(0.5)(y)
        skips.append(y)
    y = L.Flatten()(y) if rng.integers(2) else L.GlobalMaxPooling2D()(y)
    y = L.Dense(6, "relu")(y)
    model = randomize(keras.Model(x, L.Dense(2)(y)), seed)
    for layer in model.layers:
        if not hasattr(layer, "kernel") or layer is model.layers[-1]:
            continue
        kernel = values(layer.kernel).copy()
        depthwise = isinstance(layer, L.DepthwiseConv2D)
        axes = kernel.shape[-2:] if depthwise else kernel.shape[-1:]
        kernel[..., rng.random(axes) < 0.5] = 0
        layer.kernel.assign(kernel)
        if layer.use_bias and rng.integers(2):
            layer.bias.assign(-np.abs(values(layer.bias)))
    return model


# JAX compiles every operation on every shape.
@pytest.mark.parametrize("seed", range(5 if BACKEND == "jax" else 40))
@pytest.mark.often("?")
def test_any_network_gives_the_same_outputs(seed):
    model = random_model(seed)
    small = shrunk(model)
    assert small.count_params() <= model.count_params() + 20  # of biases that are new


def test_most_random_networks_do_shrink():
    smaller = 0
    for seed in range(6):
        model = random_model(seed)
        small = stf.strip(model, shrink=True)
        smaller += small.count_params() < 0.8 * model.count_params()
    assert smaller >= 4
