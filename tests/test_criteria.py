"""Criteria: scores worked out by hand, and what defines each."""

import keras
import numpy as np
import pytest
from backends import assert_allclose, assert_array_equal, values
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsenet_tf as stf
from sparsenet_tf.layers.masked import masked_kernels
from sparsenet_tf.pruning import (
    SNIP,
    Gradient,
    GraSP,
    Movement,
    Random,
    SynFlow,
    Wanda,
    magnitude,
)
from sparsenet_tf.pruning.loss_gradients import kernel_values, loss_of_kernels


def linear_model(weights):
    """Two inputs, one output, no bias; the loss is the squared error."""
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(1, use_bias=False, name="line")]
    )
    model.set_weights([np.array(weights, "float32").reshape(2, 1)])
    model.compile("sgd", "mse")
    return stf.sparsify(model)


def two_layers(sizes=(5, 4, 3), activation="tanh"):
    inputs, hidden, outputs = sizes
    model = keras.Sequential(
        [
            keras.Input((inputs,)),
            keras.layers.Dense(hidden, activation=activation, name="first"),
            keras.layers.Dense(outputs, name="second"),
        ]
    )
    model.compile("sgd", "mse")
    return stf.sparsify(model)


def examples(model, count=12, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, model.input_shape[-1])).astype("float32")
    y = rng.normal(size=(count, model.output_shape[-1])).astype("float32")
    return x, y


def scores_of(criterion, model):
    return criterion.scores(model, masked_kernels(model))


def all_values(model):
    return [values(v).copy() for v in model.variables]


X = np.array([[1.0, 2.0], [3.0, 0.0]], "float32")
Y = np.array([[2.0], [0.0]], "float32")
# With weights (1, -1) the outputs are -1 and 3, the errors -3 and 3, the gradients of
# their squares 2 * -3 * (1, 2) = (-6, -12) and 2 * 3 * (3, 0) = (18, 0).


def test_gradient_by_hand():
    model = linear_model([1, -1])
    together = scores_of(Gradient(X, Y), model)["line/kernel"]
    assert_allclose(together, [[6], [6]])  # abs of the mean (6, -6)
    apart = scores_of(Gradient(X, Y, batch_size=1), model)["line/kernel"]
    assert_allclose(apart, [[12], [6]])  # means of (6, 18) and of (12, 0)


def test_gradient_weighs_batches_by_their_examples():
    model = linear_model([1, -1])
    x, y = np.concatenate([X, X[:1]]), np.concatenate([Y, Y[:1]])
    found = scores_of(Gradient(x, y, batch_size=2), model)["line/kernel"]
    assert_allclose(found, [[(2 * 6 + 6) / 3], [(2 * 6 + 12) / 3]])


def test_snip_by_hand():
    found = scores_of(SNIP(X, Y, batch_size=1), linear_model([1, -3]))["line/kernel"]
    # Outputs -5 and 3, errors -7 and 3, gradients (-14, -28) and (18, 0), their mean
    # (2, -14), times the weights (2, 42).
    assert_allclose(found, [[2 / 44], [42 / 44]], rtol=1e-6)


def test_snip_is_the_derivative_of_the_loss_by_a_factor_of_each_weight():
    model = two_layers()
    x, y = examples(model)
    kernels = masked_kernels(model)
    loss = loss_of_kernels(model, kernels, x, y)
    weights = [values(v) for v in kernel_values(kernels)]

    def slope(kernel, index, step=1e-2):
        ends = []
        for factor in (1 + step, 1 - step):
            moved = [w.copy() for w in weights]
            moved[kernel][index] *= factor
            ends.append(float(values(loss(moved))))
        return abs(ends[0] - ends[1]) / (2 * step)

    slopes = [
        np.array([slope(k, i) for i in np.ndindex(w.shape)]).reshape(w.shape)
        for k, w in enumerate(weights)
    ]
    total = sum(s.sum() for s in slopes)
    found = scores_of(SNIP(x, y, batch_size=5), model)
    assert sum(s.sum() for s in found.values()) == pytest.approx(1, abs=1e-5)
    for score, expected in zip(found.values(), slopes, strict=True):
        assert_allclose(score, expected / total, atol=2e-4)


def test_grasp_by_hand():
    # One example x = (1, 2), y = 2: the error is e = -3 with weights (1, -1), the
    # gradient 2 e x = (-6, -12), the Hessian 2 x x', their product 2 x (x . g) =
    # 2 (1, 2) (-30) = (-60, -120).
    criterion = GraSP(X[:1], Y[:1], temperature=1)
    found = scores_of(criterion, linear_model([1, -1]))["line/kernel"]
    assert_allclose(found, [[-60], [120]], rtol=1e-6)
    # At a temperature of 2 the error is -2.5, the gradient e x = (-2.5, -5), the
    # Hessian x x' / 2, their product x (x . g) / 2 = (1, 2) (-12.5) / 2.
    criterion = GraSP(X[:1], Y[:1], temperature=2)
    found = scores_of(criterion, linear_model([1, -1]))["line/kernel"]
    assert_allclose(found, [[-6.25], [12.5]], rtol=1e-6)


def test_grasp_is_what_the_gradients_norm_loses():
    model = two_layers()
    x, y = examples(model)
    kernels = masked_kernels(model)
    found = scores_of(GraSP(x, y, temperature=1), model)

    def half_square(weights):
        for masked, weight in zip(kernels.values(), weights, strict=True):
            masked.kernel.assign(weight)
        gradients = stf.pruning.loss_gradients.mean_gradients(model, kernels, x, y)
        return sum(float((g.astype("float64") ** 2).sum()) for g in gradients.values())

    weights = [values(v).copy() for v in kernel_values(kernels)]
    for k, path in enumerate(kernels):
        for index in [(0, 0), (2, 1)]:
            ends = []
            for factor in (1.02, 0.98):
                moved = [w.copy() for w in weights]
                moved[k][index] *= factor
                ends.append(half_square(moved) / 2)
            slope = (ends[0] - ends[1]) / 0.04
            assert found[path][index] == pytest.approx(slope, rel=2e-2, abs=1e-4)


def test_synflow_by_hand():
    model = two_layers((2, 2, 1), "relu")
    first, second = [[1, -2], [3, 0]], [[5], [-1]]
    model.set_weights(
        [
            np.array(w, "float32") if np.size(w) else w
            for w in _with_zeros(model, {"first": first, "second": second})
        ]
    )
    found = scores_of(SynFlow(), model)
    # Paths through hidden unit 0 end with 5, through unit 1 with 1; units are reached
    # with 1 + 3 and 2 + 0.
    assert_allclose(found["first/kernel"], [[5, 2], [15, 0]])
    assert_allclose(found["second/kernel"], [[20], [2]])


def _with_zeros(model, kernels):
    """Values for `set_weights`: these kernels, masks of ones, biases of zero."""
    by_id = {
        id(m.kernel): k
        for m, k in zip(masked_kernels(model).values(), kernels.values(), strict=True)
    }
    masks = {id(m.mask) for m in masked_kernels(model).values()}
    return [
        by_id.get(id(v), np.ones(v.shape) if id(v) in masks else np.zeros(v.shape))
        for v in model.weights
    ]


def test_synflow_is_conserved_at_each_hidden_unit():
    model = two_layers((7, 6, 5), "relu")
    found = scores_of(SynFlow(), model)
    into = found["first/kernel"].sum(axis=0)
    assert_allclose(into, found["second/kernel"].sum(axis=1), rtol=1e-5)


def test_synflow_needs_neither_activations_nor_data_and_leaves_the_model_as_it_was():
    x = keras.Input((8, 8, 1))
    y = keras.layers.Conv2D(4, 3, activation="tanh")(x)
    y = keras.layers.BatchNormalization()(y)
    y = keras.layers.Activation("sigmoid")(y)
    y = keras.layers.Flatten()(y)
    y = keras.layers.Dense(3, activation="softmax")(y)
    model = stf.sparsify(keras.Model(x, y))
    before = all_values(model)
    found = scores_of(SynFlow(), model)
    assert all((s > 0).any() for s in found.values())
    for old, new in zip(before, all_values(model), strict=True):
        assert_array_equal(old, new)
    assert model.layers[-1].layer.activation is keras.activations.softmax


def test_synflow_refuses_outputs_that_do_not_depend_on_weights():
    x = keras.Input((4,))
    y = keras.layers.Softmax()(keras.layers.Dense(3)(x))
    model = keras.Model(x, y)
    with pytest.raises(ValueError, match="path from an input to an output"):
        stf.pruning.prune_one_shot(model, 0.5, SynFlow(2))


def uneven():
    """Layers of 6,000, 200 and 20 weights: the last ones are the first to be lost."""
    sizes = (60, 100, 2, 10)
    layers = [keras.layers.Dense(n, activation="relu") for n in sizes[1:]]
    return keras.Sequential([keras.Input((sizes[0],)), *layers])


@pytest.mark.parametrize("kept", [3, 4, 10, 50, 300])
@pytest.mark.often("3", "50")
def test_synflow_never_empties_a_layer_while_another_has_two_weights(kept):
    sparsity = 1 - kept / 6220
    model = stf.pruning.prune_one_shot(uneven(), sparsity, SynFlow(), scope="global")
    counts = [int(mask.sum()) for mask in stf.get_masks(model).values()]
    assert sum(counts) == kept
    assert min(counts) > 0 or max(counts) == 1


def test_one_round_of_a_criterion_by_itself_does_empty_a_layer():
    with pytest.warns(UserWarning, match="no weight"):
        model = stf.pruning.prune_one_shot(
            uneven(), 1 - 4 / 6220, magnitude, scope="global"
        )
    counts = [int(mask.sum()) for mask in stf.get_masks(model).values()]
    assert min(counts) == 0
    assert max(counts) > 1


def test_movement_is_the_rate_times_weight_and_negative_gradient():
    model = linear_model([1, -1])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    schedule = stf.pruning.ConstantSparsity(0.5, begin_step=100)
    criterion = Movement()
    pruning = stf.pruning.PruningCallback(schedule, criterion)
    with pytest.warns(UserWarning, match="Training ended"):
        model.fit(X, Y, batch_size=1, shuffle=False, callbacks=[pruning], verbose=0)
    w, expected = np.array([1.0, -1.0]), np.zeros(2)
    for x, y in zip(X, Y, strict=True):
        gradient = 2 * (x @ w - y[0]) * x
        expected += -0.01 * w * gradient
        w = w - 0.01 * gradient
    found = criterion.scores(model, masked_kernels(model))["line/kernel"]
    assert_allclose(found[:, 0], expected, rtol=1e-5)


def test_movement_prunes_what_moves_to_zero_though_it_is_larger():
    model = linear_model([2.0, 0.5])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2)).astype("float32")
    y = x @ np.array([[1.0], [0.9]], "float32")  # to which the weights move
    schedule = stf.pruning.PolynomialDecay(0.0, 0.5, 20, 20)
    pruning = stf.pruning.PruningCallback(schedule, Movement())
    model.fit(x, y, batch_size=20, epochs=1, callbacks=[pruning], verbose=0)
    assert stf.get_masks(model)["line/kernel"].tolist() == [[False], [True]]


def test_movement_without_training_is_refused():
    with pytest.raises(ValueError, match="must see training"):
        stf.pruning.prune_one_shot(linear_model([1, 2]), 0.5, Movement())


def test_wanda_by_hand():
    x = np.array([[3.0, 1.0], [4.0, 0.0]])
    found = scores_of(Wanda(x, batch_size=1), linear_model([1, -2]))["line/kernel"]
    assert_allclose(found, [[5], [2]])


class ConvOfAnyCPU(keras.layers.Conv2D):
    """With channels first where TensorFlow has no such operation: without oneDNN."""

    def convolution_op(self, inputs, kernel):
        if self.data_format == "channels_last":
            return super().convolution_op(inputs, kernel)
        outputs = keras.ops.conv(
            keras.ops.transpose(inputs, (0, 2, 3, 1)),
            kernel,
            padding="valid",
            data_format="channels_last",
        )
        return keras.ops.transpose(outputs, (0, 3, 1, 2))


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_wanda_takes_the_norm_of_a_convolutions_channels(data_format):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 5, 5, 3)).astype("float32")
    norms = np.sqrt((x.astype("float64") ** 2).sum(axis=(0, 1, 2)))
    if data_format == "channels_first":
        x = np.moveaxis(x, -1, 1)
    layer = ConvOfAnyCPU(4, 3, data_format=data_format, name="conv")
    model = stf.sparsify(keras.Sequential([keras.Input(x.shape[1:]), layer]))
    found = scores_of(Wanda(x, batch_size=4), model)["conv/kernel"]
    kernel = values(masked_kernels(model)["conv/kernel"].kernel)
    assert_allclose(found, np.abs(kernel) * norms[:, None], rtol=1e-5)


def test_wanda_sees_the_inputs_of_inner_layers():
    model = two_layers()
    x, _ = examples(model)
    found = scores_of(Wanda(x), model)["second/kernel"]
    hidden = np.tanh(x @ values(masked_kernels(model)["first/kernel"].kernel))
    kernel = np.abs(values(masked_kernels(model)["second/kernel"].kernel))
    norms = np.sqrt((hidden**2).sum(axis=0))
    assert_allclose(found, kernel * norms[:, None], rtol=1e-5)
    assert_allclose(model(x), model(x))  # layers are called as before


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.LSTM(3, name="other"),
        keras.layers.SeparableConv1D(3, 2, name="other"),
        keras.layers.MultiHeadAttention(1, 4, name="other"),
    ],
)
def test_wanda_refuses_other_layers_by_name(layer):
    x = keras.Input((6, 4))
    is_attention = isinstance(layer, keras.layers.MultiHeadAttention)
    model = keras.Model(x, layer(x, x) if is_attention else layer(x))
    with pytest.raises(ValueError, match="needs Dense layers and convolutions.*other"):
        stf.pruning.prune_one_shot(model, 0.5, Wanda(np.ones((2, 6, 4))))


def test_random_repeats_by_seed_and_path():
    model = two_layers((4, 4, 4))
    found = scores_of(Random(3), model)
    assert_array_equal(
        found["first/kernel"], scores_of(Random(3), model)["first/kernel"]
    )
    assert (found["first/kernel"] != found["second/kernel"]).all()
    assert (found["first/kernel"] != scores_of(Random(4), model)["first/kernel"]).all()


@given(st.integers(0, 2**31), st.floats(0, 0.99))
@settings(max_examples=25, deadline=None)
def test_random_masks_have_the_count_and_are_nested(seed, sparsity):
    model = two_layers((9, 8, 7))
    model = stf.pruning.prune_one_shot(model, sparsity / 2, Random(seed))
    some = stf.get_masks(model)
    model = stf.pruning.prune_one_shot(model, sparsity, Random(seed))
    for path, mask in stf.get_masks(model).items():
        assert mask.sum() == mask.size - min(round(sparsity * mask.size), mask.size - 1)
        assert not (mask & ~some[path]).any()


# What all that look at data or at the whole model have in common.


def made(name, model):
    x, y = examples(model)
    return {
        "gradient": lambda: Gradient(x, y),
        "snip": lambda: SNIP(x, y),
        "grasp": lambda: GraSP(x, y),
        "synflow": lambda: SynFlow(3),
        "wanda": lambda: Wanda(x),
        "random": lambda: Random(0),
    }[name]()


CRITERIA = ["gradient", "snip", "grasp", "synflow", "wanda", "random"]


@pytest.mark.parametrize("name", CRITERIA)
def test_scores_change_nothing_of_the_model(name):
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(6, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(3),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", metrics=["mae"])
    model = stf.pruning.prune_one_shot(model, 0.3)
    before = all_values(model)
    scores_of(made(name, model), model)
    for old, new in zip(before, all_values(model), strict=True):
        assert_array_equal(old, new)
    assert all(not m.update_masks for m in masked_kernels(model).values())


@pytest.mark.parametrize("name", [*CRITERIA, "magnitude"])
@pytest.mark.parametrize("scope", ["layer", "global", "erk"])
@pytest.mark.often("layer-*", "*-snip")
def test_each_prunes_to_the_count_at_once_and_on_schedule(name, scope):
    model = two_layers((12, 10, 8))
    criterion = magnitude if name == "magnitude" else made(name, model)
    model = stf.pruning.prune_one_shot(model, 0.5, criterion, scope)
    model.compile("sgd", "mse")
    masks = stf.get_masks(model)
    assert abs(sum(m.sum() for m in masks.values()) - 100) <= 1
    x, y = examples(model)
    schedule = stf.pruning.PolynomialDecay(0.5, 0.8, 0, 3, frequency=1)
    pruning = stf.pruning.PruningCallback(schedule, criterion, scope)
    model.fit(x, y, batch_size=4, callbacks=[pruning], verbose=0)
    later = stf.get_masks(model)
    assert abs(sum(m.sum() for m in later.values()) - 40) <= 1
    assert not any((later[path] & ~masks[path]).any() for path in masks)


@pytest.mark.parametrize("criterion", [Gradient, SNIP, GraSP])
def test_an_uncompiled_model_is_refused(criterion):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="`model` must be compiled"):
        stf.pruning.prune_one_shot(model, 0.5, criterion(X, Y))


@pytest.mark.parametrize("criterion", [Gradient, SNIP, GraSP])
@pytest.mark.parametrize(
    ("x", "y", "batch_size", "error", "words"),
    [
        (X, Y[:1], 2, ValueError, "of one length"),
        (X[:0], Y[:0], 2, ValueError, "1 or more"),
        (3.0, Y, 2, ValueError, "axis of examples"),
        (X, Y, 0, ValueError, "`batch_size` must be 1 or more"),
        (X, Y, 1.5, TypeError, "`batch_size` must be an integer"),
    ],
)
def test_bad_data_are_refused(criterion, x, y, batch_size, error, words):
    with pytest.raises(error, match=words):
        criterion(x, y, batch_size)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Random(-1), ValueError, "`seed` must be 0 or more"),
        (lambda: Random("a"), TypeError, "`seed` must be an integer"),
        (lambda: SynFlow(0), ValueError, "`rounds` must be 1 or more"),
        (lambda: SynFlow(2.5), TypeError, "`rounds` must be an integer"),
        (lambda: Wanda(X[:0]), ValueError, "`x` must be an array"),
        (lambda: GraSP(X, Y, temperature=0), ValueError, "`temperature` must be more"),
        (lambda: GraSP(X, Y, temperature="a"), TypeError, "`temperature` must be a"),
    ],
)
def test_bad_arguments_are_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_class_in_place_of_a_criterion_is_refused():
    with pytest.raises(TypeError, match="`criterion` must be"):
        stf.pruning.prune_one_shot(two_layers(), 0.5, SynFlow)
