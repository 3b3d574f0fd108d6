"""Every public layer, schedule and callback is Keras' own kind of object."""

import importlib.util
import inspect

import keras
import numpy as np
import pytest
from keras.src.testing import TestCase

import sparsenet_tf as stf
from sparsenet_tf.layers import (
    Masked,
    RadixConv2D,
    RadixDense,
    SparseConv2D,
    SparseDense,
)
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
)

L = keras.layers
RNG = np.random.default_rng(0)
DATA = np.ones((3, 3), "float32")
# What `SparsityLogger` writes with, whichever backend Keras has.
HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None


@keras.saving.register_keras_serializable(package="test_serialization")
def signed(weights):
    return weights


def instances():
    topology = stf.topology.RadixLayer(8, 2, 2)
    layer = Masked(L.Dense(3), exclude="none")
    mask = RNG.random((4, 3)) < 0.5
    schedule = PolynomialDecay(0.1, 0.9, 10, 500, power=2.5, frequency=7)
    return [
        layer,
        Masked(L.Dense(3), mask),
        Masked(L.SeparableConv1D(3, 2), {"depthwise_kernel": np.eye(2)}),
        Masked(L.LSTM(1), [None, np.zeros((1, 4), bool)]),
        Masked(L.MultiHeadAttention(2, 3)),
        RadixDense(topology, "relu", kernel_regularizer="l2"),
        RadixConv2D(topology, (3, 2), strides=2, padding="same"),
        SparseDense(RNG.random((5, 4)) < 0.5, use_bias=False),
        SparseConv2D(RNG.random((3, 3, 2, 4)) < 0.5, 3, dilation_rate=2),
        schedule,
        ConstantSparsity(0.5, 3, end_step=90, frequency=11),
        PruningCallback(schedule, scope="global", exclude="logits"),
        PruningCallback(ConstantSparsity(0.5, 3), criterion=signed),
        PruningCallback(schedule, SynFlow(5), scope={"logits": 0.5}),
        *(kind(DATA, DATA[:, :1], 2) for kind in (Gradient, SNIP, GraSP)),
        SNIP({"a": DATA, "b": DATA[0]}, [DATA]),
        SynFlow(example=[DATA]),
        Movement(),
        Random(7),
        Wanda(DATA),
        CosineDecay(0.3, 90, begin_step=3, frequency=11),
        SET(CosineDecay(0.3, 90), signed, "logits", seed=3),
        RigL(CosineDecay(0.3, 90), np.eye(3), np.ones(3), 2, exclude=["a", "b"]),
        PruningCallback(ConstantSparsity(0.5, 3), structure=NM(2, 4)),
        PruningCallback(schedule, structure=Blocks((4, 2)), scope="global"),
        PruningCallback(schedule, structure=Units(), exclude="logits"),
        NM(1, 4),
        Blocks((4, 2)),
        Units(),
        *loggers(PruningCallback(schedule)),
    ]


def loggers(pruning):
    if not HAS_TENSORFLOW:
        return []
    return [
        stf.SparsityLogger("logs"),
        stf.SparsityLogger("logs", 7, pruning, image_size=0),
    ]


def public_classes():
    """The public classes that Keras would save."""
    modules = (stf, stf.layers, stf.pruning, stf.topology, stf.training, stf.transform)
    return {
        value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value)
        and hasattr(value, "get_config")
        and value.__module__.split(".")[1] != "topology"  # that is NumPy alone
    }


def test_all_public_classes_are_tried():
    left_out = set() if HAS_TENSORFLOW else {stf.SparsityLogger}
    tried = {type(instance) for instance in instances()}
    assert public_classes() - left_out <= tried


@pytest.mark.parametrize("instance", instances(), ids=lambda x: type(x).__name__)
def test_serialization(instance):
    assert keras.saving.get_registered_name(type(instance)).startswith("sparsenet_tf>")
    revived = TestCase().run_class_serialization_test(instance)
    assert type(revived) is type(instance)


def test_masks_that_wait_for_their_layer_come_back():
    mask = RNG.random((4, 3)) < 0.5
    for given in (mask, {"kernel": mask}, [mask]):
        layer = Masked.from_config(Masked(L.Dense(3), given).get_config())
        layer.build((None, 4))
        np.testing.assert_array_equal(layer.masks["kernel"], mask)
    again = Masked.from_config(layer.get_config())
    again.build((None, 4))
    np.testing.assert_array_equal(again.masks["kernel"], mask)


def test_a_callback_comes_back_with_its_arguments():
    schedule = PolynomialDecay(0.1, 0.9, 10, 500)
    callback = PruningCallback(schedule, signed, scope="global", exclude=["a", "b"])
    config = keras.saving.serialize_keras_object(callback)
    revived = keras.saving.deserialize_keras_object(config)
    assert revived.schedule.get_config() == schedule.get_config()
    assert revived.criterion is signed
    assert (revived.scope, revived.exclude) == ("global", ("a", "b"))


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")  # by the battery
@pytest.mark.parametrize(
    ("layer", "shape", "weights", "states", "seeds"),
    [
        (lambda **options: L.Dense(5, "relu", **options), (2, 4), 2, 1, 0),
        (lambda **options: L.Conv2D(3, 2, **options), (2, 5, 5, 4), 2, 1, 0),
        (lambda **options: L.LSTM(3, **options), (2, 6, 4), 3, 2, 1),
        (lambda **options: L.SeparableConv1D(3, 2, **options), (2, 6, 4), 3, 2, 0),
    ],
    ids=["Dense", "Conv2D", "LSTM", "SeparableConv1D"],
)
@pytest.mark.often("Dense", "LSTM")
def test_keras_layer_battery_of_masked(layer, shape, weights, states, seeds):
    plain = layer()
    outputs = plain(np.ones(shape, "float32"))
    battery = TestCase()
    length = battery.assertLen

    def with_masks(found, expected, msg=None):
        # With PyTorch the battery takes weights and seeds for all that there is.
        more = states if "torch_params" in str(msg) else 0
        length(found, expected + more, msg=msg)

    battery.assertLen = with_masks
    battery.run_layer_test(
        lambda **options: Masked(layer(**options)),  # a layer is built once
        init_kwargs={},
        input_shape=shape,
        expected_output_shape=tuple(outputs.shape),
        expected_num_trainable_weights=weights,
        # Masks are state, and not weights.
        expected_num_non_trainable_weights=0,
        expected_num_non_trainable_variables=states + seeds,
        expected_num_seed_generators=seeds,
        expected_num_losses=0,
        supports_masking=plain.supports_masking,
    )
