"""`sparsify` on every kind of model, and what stays as it was."""

import keras
import numpy as np
import pytest
from backends import assert_array_equal, values

import sparsenet_tf as stf

L = keras.layers


@keras.saving.register_keras_serializable(package="test_sparsify")
class Subclassed(keras.Model):
    """Layers as attribute, in a list, in a dict, in a nested model."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stem = L.Dense(6, activation="relu", name="stem")
        self.stack = [L.Dense(6, name="a"), L.Dropout(0.1), L.Dense(6, name="b")]
        self.heads = {"mean": L.Dense(2, name="mean"), "scale": L.Dense(2, name="s")}
        self.inner = keras.Sequential([L.Dense(6, name="deep")], name="inner")

    def call(self, x):
        x = self.stem(x)
        for layer in self.stack:
            x = layer(x)
        x = self.inner(x)
        return self.heads["mean"](x) + self.heads["scale"](x)

    def get_config(self):
        return {"name": self.name}


PATHS = ["stem/kernel", "a/kernel", "b/kernel", "mean/kernel", "s/kernel"]


def _sequential():
    return keras.Sequential(
        [keras.Input((4,)), L.Dense(6, name="hidden"), L.ReLU(), L.Dense(2, name="out")]
    )


def _functional():
    """Two inputs, a shared layer, a branch, a nested model."""
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    shared = L.Dense(6, name="shared")
    inner_in = keras.Input((6,))
    inner = keras.Model(inner_in, L.Dense(5, name="deep")(inner_in), name="inner")
    joined = L.Add()([inner(shared(left)), inner(shared(right))])
    normed = L.BatchNormalization()(joined)
    return keras.Model([left, right], L.Dense(2, name="out")(normed))


def _data(model, size=8):
    rng = np.random.default_rng(0)
    count = len(model.inputs) if getattr(model, "inputs", None) else 1
    x = [rng.normal(size=(size, 4)).astype("float32") for _ in range(count)]
    return (x if count > 1 else x[0]), np.ones((size, 2), "float32")


@pytest.mark.parametrize(
    "make, paths",
    [
        (_sequential, ["hidden/kernel", "out/kernel"]),
        (_functional, ["shared/kernel", "inner/deep/kernel", "out/kernel"]),
    ],
)
def test_copies_and_leaves_the_original(make, paths):
    model = make()
    x, y = _data(model)
    expected = model.predict(x, verbose=0)
    sparse = stf.sparsify(model)
    assert type(sparse) is type(model) and sparse is not model
    assert list(stf.get_masks(sparse)) == paths
    assert [layer.name for layer in sparse.layers] == [
        layer.name for layer in model.layers
    ]
    assert_array_equal(sparse.predict(x, verbose=0), expected)
    stf.pruning.prune_one_shot(sparse, 0.9)
    sparse.compile("adam", "mse")
    sparse.fit(x, y, verbose=0)
    assert stf.summary(sparse, print_fn=None).sparsity > 0.85
    assert_array_equal(model.predict(x, verbose=0), expected)
    with pytest.raises(ValueError, match="must have masked kernels"):
        stf.get_masks(model)


@pytest.mark.parametrize("built", [True, False])
def test_subclassed_is_changed_in_place(built):
    model = Subclassed()
    x, y = _data(model)
    expected = model(x) if built else None
    names = [layer.name for layer in model.layers]
    sparse = stf.sparsify(model)
    assert sparse is model
    assert [layer.name for layer in model.layers] == names
    assert model.get_layer("stem").units == 6
    if built:
        assert_array_equal(model(x), expected)
    model.compile("adam", "mse")
    model.fit(x, y, verbose=0)
    assert sorted(stf.get_masks(model)) == sorted([*PATHS, "inner/deep/kernel"])
    stf.pruning.prune_one_shot(model, 0.5)
    model.fit(x, y, verbose=0)
    table = stf.summary(model, print_fn=None)
    assert all(k.masked and k.sparsity >= 0.5 for k in table.kernels)


def test_subclassed_trained_before_is_traced_again():
    model = Subclassed()
    x, y = _data(model)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    model.fit(x, y, verbose=0, epochs=2)
    stf.sparsify(model)
    stf.pruning.prune_one_shot(model, 0.8)
    model.fit(x, y, verbose=0, epochs=2)
    for kernel in stf.summary(model, print_fn=None).kernels:
        assert kernel.size - kernel.nonzeros >= round(0.8 * kernel.size)


def test_subclassed_saves_weights(tmp_path):
    def make():
        model = stf.sparsify(Subclassed())
        model(_data(model)[0])
        return model

    model, other = make(), make()
    stf.pruning.prune_one_shot(model, 0.5)
    model.save_weights(tmp_path / "m.weights.h5")
    other.load_weights(tmp_path / "m.weights.h5")
    for path, mask in stf.get_masks(model).items():
        assert_array_equal(stf.get_masks(other)[path], mask)


@pytest.mark.parametrize("how", ["first call", "fit", "build"])
def test_unbuilt_sequential(how):
    model = keras.Sequential(
        [L.Dense(6, name="hidden"), L.BatchNormalization(), L.Dense(2, name="out")]
    )
    sparse = stf.sparsify(model, exclude="out")
    assert not stf.layers.tree.is_masked(sparse.layers[1])
    x, y = _data(sparse)
    if how == "first call":
        sparse(x)
    elif how == "fit":
        sparse.compile("sgd", "mse")
        sparse.fit(x, y, verbose=0)
    else:
        sparse.build((None, 4))
    assert list(stf.get_masks(sparse)) == ["hidden/kernel"]
    stf.pruning.prune_one_shot(sparse, 0.5, exclude="out")
    assert np.count_nonzero(sparse.get_layer("hidden").kernel) == 12


def test_compiled_model_stays_compiled():
    model = _sequential()
    model.compile(keras.optimizers.Adam(0.3), "mse", metrics=["mae"])
    sparse = stf.sparsify(model)
    assert sparse.compiled and sparse.optimizer is not model.optimizer
    assert float(sparse.optimizer.learning_rate) == pytest.approx(0.3)
    x, y = _data(model)
    assert "mae" in sparse.fit(x, y, verbose=0).history


@pytest.mark.parametrize(
    "exclude, left",
    [
        ("out", ["hidden/kernel"]),
        (["out"], ["hidden/kernel"]),
        ("hidden/kernel", ["out/kernel"]),
        ((), ["hidden/kernel", "out/kernel"]),
    ],
)
def test_exclude(exclude, left):
    sparse = stf.sparsify(_sequential(), exclude=exclude)
    assert list(stf.get_masks(sparse)) == left


def test_exclude_below_a_layer():
    inputs = keras.Input((5, 4))
    outputs = L.MultiHeadAttention(2, 2, name="attention")(inputs, inputs)
    sparse = stf.sparsify(
        keras.Model(inputs, outputs), exclude=["query", "attention/key"]
    )
    assert list(stf.get_masks(sparse)) == [
        "attention/value/kernel",
        "attention/attention_output/kernel",
    ]


def test_given_masks():
    model = _sequential()
    mask = np.arange(24).reshape(4, 6) % 3 == 0
    sparse = stf.sparsify(model, {"hidden/kernel": mask})
    assert_array_equal(sparse.layers[0].kernel.numpy() != 0, mask)
    assert stf.get_masks(sparse)["out/kernel"].all()


class Gate(L.Layer):
    """Says itself which of its weights are kernels, once it has them."""

    def build(self, input_shape):
        self.mix = self.add_weight(shape=(input_shape[-1], 2), name="mix")
        self.table = self.add_weight(shape=(2, 2), name="table")

    def call(self, x):
        return keras.ops.matmul(keras.ops.matmul(x, self.mix), self.table)

    def get_prunable_weights(self):
        return [self.mix]


def test_own_layer_that_names_its_kernels_is_not_asked_before_it_is_built():
    for inputs in ([keras.Input((4,))], []):
        model = stf.sparsify(keras.Sequential([*inputs, Gate(name="gate")]))
        model(np.ones((1, 4)))
        assert list(stf.get_masks(model)) == ["gate/mix"]


def test_frozen_layers_stay_frozen():
    model = _sequential()
    model.get_layer("hidden").trainable = False
    sparse = stf.sparsify(model)
    assert list(stf.get_masks(sparse)) == ["hidden/kernel", "out/kernel"]
    assert [v.path.split("/")[-1] for v in sparse.trainable_variables] == [
        "kernel",
        "bias",
    ]


def test_operations_between_layers():
    # Keras makes one of the timestep mask too, between `embedding` and `lstm`.
    inputs = keras.Input((5,), dtype="int32")
    x = L.Embedding(9, 4, mask_zero=True, name="embedding")(inputs)
    x = L.LSTM(3, name="lstm")(2 * x) + L.LSTM(3, name="other")(x)
    model = keras.Model(inputs, keras.ops.softmax(x, axis=0))
    sparse = stf.sparsify(model)
    assert len(stf.get_masks(sparse)) == 5
    tokens = np.arange(10).reshape(2, 5) % 4
    assert_array_equal(sparse(tokens), model(tokens))
    pruned = stf.pruning.prune_one_shot(sparse, 0.5)
    plain = stf.strip(pruned)
    assert_array_equal(plain(tokens), pruned(tokens))


def test_own_kernels_of_an_unbuilt_layer():
    class Mixer(L.Layer):
        def build(self, shape):
            self.mixing = self.add_weight(shape=(shape[-1], 4), name="mixing")
            self.table = self.add_weight(shape=(2, 4), name="table")

        def call(self, x):
            return x @ self.mixing + self.table[0]

        def get_prunable_weights(self):
            return [self.mixing]

    for layers in ([keras.Input((6,)), Mixer(name="mixer")], [Mixer(name="mixer")]):
        sparse = stf.sparsify(keras.Sequential(layers))
        sparse(np.ones((1, 6)))
        assert list(stf.get_masks(sparse)) == ["mixer/mixing"]


def test_own_train_step_survives():
    @keras.saving.register_keras_serializable(package="test_sparsify")
    class Counts(keras.Model):
        def train_step(self, *arguments):  # with JAX a state and data
            self.steps_traced = getattr(self, "steps_traced", 0) + 1
            return super().train_step(*arguments)

    inputs = keras.Input((4,))
    sparse = stf.sparsify(Counts(inputs, L.Dense(2)(inputs)))
    sparse.compile("sgd", "mse")
    sparse.fit(*_data(sparse), verbose=0)
    assert isinstance(sparse, Counts) and sparse.steps_traced > 0


def test_unregistered_objects_of_the_user():
    class Clip(keras.constraints.Constraint):
        def __call__(self, w):
            return keras.ops.clip(w, -0.1, 0.1)

    class Own(L.Dense):
        pass

    def swish2(x):
        return x * keras.ops.sigmoid(2 * x)

    model = keras.Sequential(
        [
            keras.Input((3, 4)),
            L.TimeDistributed(Own(3, activation=swish2, kernel_constraint=Clip())),
        ]
    )
    sparse = stf.sparsify(model)
    assert type(sparse.layers[0].layer.layer) is Own
    assert stf.strip(sparse).layers[0].layer.activation is swish2


def test_bad_input_changes_nothing():
    model = Subclassed()
    model(_data(model)[0])
    for arguments, message in [
        ({"exclude": "no_layer"}, r"`exclude` names the layer 'no_layer'.*stem"),
        ({"exclude": ["stem", "ste"]}, "`exclude` names the layer 'ste'"),
        (
            {"masks": {"stem": np.ones((4, 6))}},
            "`masks` must name.*Received: ..stem'",
        ),
        ({"masks": {"stem/kernel": np.ones((6, 4))}}, r"shape \(4, 6\)"),
    ]:
        with pytest.raises(ValueError, match=f"(?s){message}"):
            stf.sparsify(model, **arguments)
        assert not any(map(stf.layers.tree.is_masked, model.layers))
    with pytest.raises(TypeError, match="`exclude` must be layer names"):
        stf.sparsify(model, exclude=[3])
    with pytest.raises(TypeError, match="`model` must be a keras.Model.*Dense"):
        stf.sparsify(L.Dense(3))
    with pytest.raises(TypeError, match="`masks` must be a dict"):
        stf.sparsify(model, masks=[np.ones((4, 6))])
    with pytest.raises(ValueError, match="`model` must not be sparsified already"):
        stf.sparsify(stf.sparsify(model))


def _depthwise(built):
    layers = [
        L.DepthwiseConv2D(3, name="depth"),
        L.SeparableConv2D(4, 3, name="separable"),
        L.Conv2D(4, 3, groups=4, name="each"),
        L.Conv2D(4, 3, groups=2, name="grouped"),
    ]
    return keras.Sequential([keras.Input((12, 12, 2)), *layers] if built else layers)


NOT_DEPTHWISE = ["separable/pointwise_kernel", "grouped/kernel"]


@pytest.mark.parametrize("built", [True, False])
def test_depthwise_kernels_are_left_alone_if_asked_for(built, tmp_path):
    model = stf.sparsify(_depthwise(built), depthwise=False)
    x = np.random.default_rng(0).normal(size=(2, 12, 12, 2)).astype("float32")
    wanted = model(x)
    assert list(stf.get_masks(model)) == NOT_DEPTHWISE
    if built:  # Otherwise nobody knows yet what the layers have.
        for name, kind in [("depth", L.DepthwiseConv2D), ("each", L.Conv2D)]:
            assert type(model.get_layer(name)) is kind
    stf.pruning.prune_one_shot(model, 0.5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert list(stf.get_masks(loaded)) == NOT_DEPTHWISE
    assert_array_equal(loaded(x), model(x))
    assert not np.array_equal(values(wanted), values(model(x)))
    masks = stf.get_masks(loaded)
    rebuilt = stf.get_masks(stf.rebuild(loaded, masks, 0))
    for path in NOT_DEPTHWISE:
        np.testing.assert_array_equal(rebuilt[path], masks[path])


def test_depthwise_kernels_are_masked_by_default_and_if_named():
    model = _depthwise(True)
    paths = list(stf.get_masks(stf.sparsify(model)))
    assert paths == [
        "depth/kernel",
        "separable/depthwise_kernel",
        "separable/pointwise_kernel",
        "each/kernel",
        "grouped/kernel",
    ]
    mask = np.zeros(model.get_layer("each").kernel.shape, bool)
    mask[0] = True
    named = stf.get_masks(
        stf.sparsify(model, masks={"each/kernel": mask}, depthwise=False)
    )
    assert set(named) == {*NOT_DEPTHWISE, "each/kernel"}
    np.testing.assert_array_equal(named["each/kernel"], mask)
    # Those of a layer are told apart.
    mask = np.eye(9, dtype=bool)[:, :2].reshape(3, 3, 2, 1)
    named = stf.get_masks(
        stf.sparsify(model, masks={"separable/depthwise_kernel": mask}, depthwise=False)
    )
    assert set(named) == {*NOT_DEPTHWISE, "separable/depthwise_kernel"}


def test_models_with_lambda_layers():
    factor = 2.0  # which the function's code alone does not know

    x = keras.Input((4,))
    double = keras.layers.Lambda(lambda x: x * factor, output_shape=(4,), name="double")
    model = keras.Model(x, keras.layers.Dense(2, name="out")(double(x)))
    data = np.ones((3, 4), "float32")
    sparse = stf.sparsify(model)
    np.testing.assert_array_equal(values(sparse(data)), values(model(data)))
    assert sparse.get_layer("double") is not double
    rebuilt = stf.rebuild(sparse, stf.get_masks(sparse), seed=1)
    kernel = values(rebuilt.get_layer("out").kernel)
    np.testing.assert_allclose(values(rebuilt(data)), 2 * data @ kernel, rtol=1e-6)
