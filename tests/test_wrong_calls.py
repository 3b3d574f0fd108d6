"""Wrong calls of `stf.topology` and `stf.layers`, and what they are told.

Those of other packages are in `test_wrong_calls_*.py`.
"""

import inspect

import numpy as np
import pytest
import wrong_calls
from wrong_calls import (
    INF,
    NAN,
    RAGGED,
    L,
    Says,
    built_conv,
    built_dense,
    masked_layer,
    not_models,
    parameters,
    shared,
)

import sparsenet_tf as stf
from sparsenet_tf.layers import (
    Masked,
    RadixConv2D,
    RadixDense,
    SparseConv2D,
    SparseDense,
    sparsify,
)
from sparsenet_tf.topology import (
    RadixLayer,
    RadixNet,
    SparsePattern,
    allocate,
    expander_mask,
    find_radix_layer,
    measure,
    random_mask,
    select_mask,
    select_masks,
)

EYE = np.eye(4, dtype=bool)
ONES = np.ones((4, 5), bool)
TOPOLOGY = RadixLayer(4, 2, 1)
PATTERN = SparsePattern.from_mask(ONES)

OF_TOPOLOGY = {
    allocate: [
        ("no shapes", "shapes", lambda f: f([], 0.5)),
        ("an empty dict", "shapes", lambda f: f({}, 0.5)),
        ("a number as shapes", "shapes", lambda f: f(3, 0.5)),
        ("a string as shapes", "shapes", lambda f: f("shapes", 0.5)),
        ("numbers as shapes", "shapes", lambda f: f([4, 5], 0.5)),
        ("a shape of one axis", "shapes", lambda f: f([(4,)], 0.5)),
        ("an axis of zero", "shapes", lambda f: f([(4, 0)], 0.5)),
        ("a float as axis", "shapes", lambda f: f([(4, 5.0)], 0.5)),
        ("all pruned", "sparsity", lambda f: f([(4, 5)], 1.0)),
        ("less than none", "sparsity", lambda f: f([(4, 5)], -0.1)),
        ("NaN", "sparsity", lambda f: f([(4, 5)], NAN)),
        ("a text", "sparsity", lambda f: f([(4, 5)], "0.5")),
        ("an unknown method", "method", lambda f: f([(4, 5)], 0.5, "best")),
        ("a list as method", "method", lambda f: f([(4, 5)], 0.5, ["erk"])),
        ("an array as method", "method", lambda f: f([(4, 5)], 0.5, ONES)),
    ],
    measure: [
        ("no masks", "masks", lambda f: f([])),
        ("a number", "masks", lambda f: f(3)),
        ("a string", "masks", lambda f: f("masks")),
        ("a dict", "masks", lambda f: f({"a": EYE})),
        ("numbers", "masks", lambda f: f([np.ones((2, 2))])),
        ("one axis", "masks", lambda f: f([np.ones(2, bool)])),
        ("an empty mask", "masks", lambda f: f([np.ones((0, 2), bool)])),
        ("rows of several lengths", "masks", lambda f: f([RAGGED])),
        ("sizes that do not fit", "masks", lambda f: f([EYE, ONES.T])),
    ],
    RadixLayer: [
        ("no nodes", "nodes", lambda f: f(0, 1, 1)),
        ("a float", "nodes", lambda f: f(4.0, 2, 1)),
        ("a bool", "radix", lambda f: f(4, True, 1)),
        ("an array", "nodes", lambda f: f(np.array([4, 4]), 2, 1)),
        ("None", "place_value", lambda f: f(4, 2, None)),
        ("a radix above the nodes", "radix", lambda f: f(4, 5, 1)),
        ("what does not divide", "radix * place_value", lambda f: f(4, 3, 1)),
        ("no width", "width_in", lambda f: f(4, 2, 1, width_in=0)),
        ("a text", "width_out", lambda f: f(4, 2, 1, width_out="2")),
        ("less than none dropped", "drop_inputs", lambda f: f(4, 2, 1, 1, 1, -1)),
        ("all dropped", "drop_outputs", lambda f: f(4, 2, 1, drop_outputs=4)),
    ],
    RadixLayer.near: [
        ("no inputs", "input_size", lambda f: f(0, 3, 0.5)),
        ("NaN", "output_size", lambda f: f(4, NAN, 0.5)),
        ("infinity", "sparsity", lambda f: f(4, 3, INF)),
        ("a bool as sparsity", "sparsity", lambda f: f(4, 3, False)),
        ("a negative stage", "stage", lambda f: f(4, 3, 0.5, stage=-1)),
    ],
    RadixNet: [
        ("no radices", "radices", lambda f: f((), (1,))),
        ("a number", "radices", lambda f: f(4, (1, 1))),
        ("a radix of 1", "radices", lambda f: f((2, 1), (1, 1, 1))),
        ("an empty system", "radices", lambda f: f([(2, 2), ()], (1, 1, 1))),
        ("systems that do not fit", "radices", lambda f: f([(2,), (3,)], (1, 1, 1))),
        ("a string in radices", "radices", lambda f: f(["22"], (1, 1, 1))),
        ("too few widths", "widths", lambda f: f((2, 2), (1, 1))),
        ("a width of zero", "widths", lambda f: f((2, 2), (1, 0, 1))),
        ("a text", "widths", lambda f: f((2, 2), "111")),
        ("too few dropped", "drop", lambda f: f((2, 2), (1, 1, 1), (0, 0))),
        ("all dropped", "drop", lambda f: f((2, 2), (1, 1, 1), (4, 0, 0))),
        (
            "paths of uneven layers",
            "num_paths",
            lambda f: f((2, 2), (1, 1, 1), (0, 1, 0)).num_paths,
        ),
    ],
    RadixNet.near: [
        ("two sizes", "layer_sizes", lambda f: f((4, 5), 0.5)),
        ("a number", "layer_sizes", lambda f: f(4, 0.5)),
        ("a size of zero", "layer_sizes", lambda f: f((4, 0, 4), 0.5)),
        (
            "layers too small",
            Says("`layer_sizes` (9, 1, 9)"),
            lambda f: f((9, 1, 9), 0.5),
        ),
        ("all pruned", "sparsity", lambda f: f((9, 9, 9), 1)),
    ],
    expander_mask: [
        ("one axis", "shape", lambda f: f((4,), 1, 0)),
        ("an integer", "shape", lambda f: f(4, 1, 0)),
        ("no connections", "fan_in", lambda f: f((4, 5), 0, 0)),
        ("more than the inputs", "fan_in", lambda f: f((4, 5), 5, 0)),
        ("a float", "fan_in", lambda f: f((4, 5), 2.0, 0)),
        ("a negative seed", "seed", lambda f: f((4, 5), 2, -1)),
        ("None as seed", "seed", lambda f: f((4, 5), 2, None)),
    ],
    find_radix_layer: [
        ("NaN", "mask", lambda f: f([[NAN, 1.0]])),
        ("strings", "mask", lambda f: f([["a", "b"]])),
        ("other numbers", "mask", lambda f: f([[0, 2]])),
        ("rows of several lengths", "mask", lambda f: f(RAGGED)),
        ("None", "mask", lambda f: f(None)),
    ],
    random_mask: [
        ("no axes", "shape", lambda f: f((), 0.5, 0)),
        ("a negative axis", "shape", lambda f: f((4, -5), 0.5, 0)),
        ("a string", "shape", lambda f: f("45", 0.5, 0)),
        ("NaN", "sparsity", lambda f: f((4, 5), NAN, 0)),
        ("None", "sparsity", lambda f: f((4, 5), None, 0)),
        ("an array", "sparsity", lambda f: f((4, 5), np.array([0.5]), 0)),
        ("a negative seed", "seed", lambda f: f((4, 5), 0.5, -1)),
        ("a bool as seed", "seed", lambda f: f((4, 5), 0.5, True)),
        ("a float as seed", "seed", lambda f: f((4, 5), 0.5, 0.0)),
        ("a text as flag", "exact", lambda f: f((4, 5), 0.5, 0, exact="no")),
    ],
    select_mask: [
        ("no scores", "scores", lambda f: f([], 0.5)),
        ("NaN", "scores", lambda f: f([1.0, NAN], 0.5)),
        ("strings", "scores", lambda f: f(["a", "b"], 0.5)),
        ("complex numbers", "scores", lambda f: f([1j, 2.0], 0.5)),
        ("rows of several lengths", "scores", lambda f: f(RAGGED, 0.5)),
        ("infinity", "sparsity", lambda f: f([1.0, 2.0], INF)),
        ("a mask of another shape", "mask", lambda f: f([1.0, 2.0], 0.5, [True])),
        ("a mask of numbers", "mask", lambda f: f([1.0, 2.0], 0.5, [1, 0])),
    ],
    select_masks: [
        ("no list", "scores", lambda f: f(None, 0.5)),
        ("a string", "scores", lambda f: f("scores", 0.5)),
        ("an empty list", "scores", lambda f: f([], 0.5)),
        ("an empty array", "scores", lambda f: f([np.ones(0)], 0.5)),
        ("a number as masks", "masks", lambda f: f([np.ones(2)], 0.5, 3)),
        ("too few masks", "masks", lambda f: f([np.ones(2)], 0.5, [])),
        ("a ragged mask", "mask", lambda f: f([np.ones(2)], 0.5, [RAGGED])),
    ],
    SparsePattern: [
        ("no inputs", "input_size", lambda f: f(0, 1, [0, 1], [0])),
        ("a size past int32", "output_size", lambda f: f(1, 2**31, [0, 1], [0])),
        ("floats", "inputs", lambda f: f(1, 1, [0, 1], [0.0])),
        ("an input that wraps to 0", "inputs", lambda f: f(1, 1, [0, 1], [-(2**32)])),
        ("an input out of range", "inputs", lambda f: f(1, 1, [0, 1], [1])),
        ("rows of several lengths", "inputs", lambda f: f(1, 1, [0, 1], RAGGED)),
        ("splits that fall", "splits", lambda f: f(1, 2, [0, 1, 0], [0])),
        ("strings", "splits", lambda f: f(1, 1, ["0", "1"], [0])),
        ("something else to find", "other", lambda f: PATTERN.find(EYE)),
        (
            "other sizes to find",
            "other",
            lambda f: PATTERN.find(f.from_mask(EYE)),
        ),
    ],
    SparsePattern.from_mask: [
        ("None", "mask", lambda f: f(None)),
        ("one axis", "mask", lambda f: f([True])),
        ("NaN", "mask", lambda f: f([[NAN, 1.0]])),
        ("strings", "mask", lambda f: f([["a"]])),
        ("rows of several lengths", "mask", lambda f: f(RAGGED)),
        ("no inputs", "input_size", lambda f: f(np.ones((0, 3)))),
    ],
    SparsePattern.from_edges: [
        ("several lengths", "inputs", lambda f: f(4, 5, [0, 1], [0])),
        ("floats", "outputs", lambda f: f(4, 5, [0], [0.5])),
        ("an output out of range", "outputs", lambda f: f(4, 5, [0], [5])),
        ("a connection twice", "inputs", lambda f: f(4, 5, [0, 0], [1, 1])),
        ("rows of several lengths", "inputs", lambda f: f(4, 5, RAGGED, [0])),
    ],
    SparsePattern.random: [
        ("more than the inputs", "fan_in", lambda f: f(4, 5, 6, 0)),
        ("a float as seed", "seed", lambda f: f(4, 5, 2, 0.5)),
        ("a negative size", "output_size", lambda f: f(4, -5, 2, 0)),
    ],
}

OF_LAYERS = {
    Masked: [
        ("no layer", "layer", lambda f: f(None)),
        ("a class", "layer", lambda f: f(L.Dense)),
        ("a masked layer", "layer", lambda f: f(masked_layer())),
        ("strings as mask", "mask", lambda f: f(L.Dense(5), np.array(["a"]))),
        ("NaN", "mask", lambda f: f(built_dense(), np.full((4, 5), NAN))),
        ("other numbers", "mask", lambda f: f(built_dense(), np.full((4, 5), 2))),
        ("another shape", "mask", lambda f: f(built_dense(), ONES.T)),
        ("rows of several lengths", "mask", lambda f: f(built_dense(), tuple(RAGGED))),
        ("a list of another length", "mask", lambda f: f(built_dense(), [])),
        ("an unknown kernel", "mask", lambda f: f(built_dense(), {"weight": ONES})),
        ("no kernel to mask", "mask", lambda f: f(built_relu(), ONES)),
        ("a number to exclude", "exclude", lambda f: f(L.Dense(5), exclude=5)),
        ("None to exclude", "exclude", lambda f: f(L.Dense(5), exclude=None)),
        ("a text as flag", "depthwise", lambda f: f(L.Dense(5), depthwise="no")),
        ("an unknown argument", Says("units", "5"), lambda f: f(L.Dense(5), units=5)),
        (
            "masks before it is built",
            "set_masks",
            lambda f: f(L.Dense(5)).set_masks(ONES),
        ),
        ("masks of NaN", "mask", lambda f: masked_layer().set_masks(ONES * NAN)),
        ("None as masks", "mask", lambda f: masked_layer().set_masks(None)),
    ],
    RadixDense: [
        ("no topology", "topology", lambda f: f(None)),
        ("a class", "topology", lambda f: f(RadixLayer)),
        ("a net", "topology", lambda f: f(RadixNet((2, 2), (1, 1, 1)))),
        ("a dict of something else", "topology", lambda f: f({"units": 4})),
        ("an activation", Says("activation", "nope"), lambda f: f(TOPOLOGY, "nope")),
        ("other inputs", "topology", lambda f: f(TOPOLOGY)(np.ones((1, 9)))),
        ("no inputs", Says("ndim"), lambda f: f(TOPOLOGY)(np.ones(4))),
    ],
    RadixDense.from_topology: [
        ("no topology", "topology", lambda f: f(4)),
        (
            "an initializer",
            Says("nope"),
            lambda f: f(TOPOLOGY, kernel_initializer="nope"),
        ),
    ],
    RadixDense.from_dense: [
        ("no layer", "layer", lambda f: f(None, TOPOLOGY)),
        ("a convolution", "layer", lambda f: f(built_conv(), TOPOLOGY)),
        ("an unbuilt layer", "layer", lambda f: f(L.Dense(4), TOPOLOGY)),
        ("a mask as topology", "topology", lambda f: f(built_dense(), ONES)),
        ("another size", "topology", lambda f: f(built_dense(), TOPOLOGY)),
    ],
    RadixConv2D: [
        ("no topology", "topology", lambda f: f(None, 3)),
        ("no groups", "groups", lambda f: f(TOPOLOGY, 3, groups=0)),
        ("a text as groups", "groups", lambda f: f(TOPOLOGY, 3, groups="2")),
        ("a kernel of zero", Says("kernel_size", "0"), lambda f: f(TOPOLOGY, 0)),
        (
            "a padding",
            Says("padding", "nope"),
            lambda f: f(TOPOLOGY, 3, padding="nope"),
        ),
        ("LoRA", Says("lora_rank"), lambda f: f(TOPOLOGY, 3, lora_rank=2)),
        (
            "other channels",
            "topology",
            lambda f: f(TOPOLOGY, 3)(np.ones((1, 8, 8, 9), "float32")),
        ),
    ],
    RadixConv2D.from_topology: [
        ("a mask", "topology", lambda f: f(ONES, 3)),
    ],
    RadixConv2D.from_dense: [
        ("a dense layer", "layer", lambda f: f(built_dense(), TOPOLOGY)),
        ("None as topology", "topology", lambda f: f(built_conv(), None)),
        ("another size", "topology", lambda f: f(built_conv(), TOPOLOGY)),
    ],
    SparseDense: [
        ("no pattern", "pattern", lambda f: f(None)),
        ("a string", "pattern", lambda f: f("pattern")),
        ("NaN", "pattern", lambda f: f([[NAN, 1.0]])),
        ("rows of several lengths", "pattern", lambda f: f(RAGGED)),
        ("a filter's mask", "pattern", lambda f: f(np.ones((3, 3, 4, 6)))),
        ("a dict of something else", "config", lambda f: f({"splits": 3})),
        ("an implementation", "implementation", lambda f: f(EYE, implementation="gpu")),
        ("other inputs", "pattern", lambda f: f(EYE)(np.ones((1, 9), "float32"))),
        ("a pattern too early", "set_pattern", lambda f: f(EYE).set_pattern(EYE)),
        (
            "a pattern of another size",
            "pattern",
            lambda f: shared("sparse").layers[0].set_pattern(EYE),
        ),
    ],
    SparseDense.from_dense: [
        ("no layer", "layer", lambda f: f(None)),
        ("a string as layer", "layer", lambda f: f("dense", ONES)),
        ("an unbuilt layer", "layer", lambda f: f(L.Dense(5), ONES)),
        ("no mask", "mask", lambda f: f(built_dense())),
        ("a wrapper without masks", "layer", lambda f: f(Masked(L.Dense(5)))),
        ("another size", "pattern", lambda f: f(built_dense(), EYE)),
        ("NaN", "mask", lambda f: f(built_dense(), np.full((4, 5), NAN))),
    ],
    SparseConv2D: [
        ("no pattern", "pattern", lambda f: f(None, 3)),
        ("three axes", "pattern", lambda f: f(np.ones((3, 4, 6)), 3)),
        ("rows of several lengths", "pattern", lambda f: f(RAGGED, 3)),
        ("strides", Says("strides", "0"), lambda f: f(ONES, 3, strides=0)),
        ("TensorFlow's", "implementation", lambda f: f(ONES, 3, implementation="csr")),
        (
            "other channels",
            "pattern",
            lambda f: f(ONES, 3)(np.ones((1, 8, 8, 9), "float32")),
        ),
    ],
    SparseConv2D.from_dense: [
        ("a dense layer", "layer", lambda f: f(built_dense(), ONES)),
        ("no mask", "mask", lambda f: f(built_conv())),
        ("infinity", "mask", lambda f: f(built_conv(), np.full((3, 3, 4, 6), INF))),
        ("another size", "pattern", lambda f: f(built_conv(), np.ones((3, 3, 4, 9)))),
    ],
    sparsify: [
        *not_models(),
        ("a masked model", "model", lambda f: f(shared("masked"))),
        ("a list of masks", "masks", lambda f: f(shared("dense"), [ONES])),
        (
            "an unknown kernel",
            "masks",
            lambda f: f(shared("dense"), {"a/kernel": ONES}),
        ),
        (
            "an unbuilt model",
            "masks",
            lambda f: f(shared("unbuilt"), {"out/kernel": 1}),
        ),
        (
            "another shape",
            "mask",
            lambda f: f(shared("subclassed"), {"hidden/kernel": EYE}),
        ),
        (
            "a mask of NaN",
            "mask",
            lambda f: f(shared("dense"), {"hidden/kernel": ONES * NAN}),
        ),
        (
            "None as mask",
            "mask",
            lambda f: f(shared("dense"), {"hidden/kernel": None}),
        ),
        (
            "a kernel named twice",
            "masks",
            lambda f: f(shared("subclassed"), {"hidden/kernel": ONES}, "hidden"),
        ),
        (
            "an unknown layer",
            Says("`exclude`", "'a'"),
            lambda f: f(shared("dense"), exclude="a"),
        ),
        ("numbers", "exclude", lambda f: f(shared("dense"), exclude=[1])),
        ("a number", "exclude", lambda f: f(shared("dense"), exclude=1)),
        ("None", "exclude", lambda f: f(shared("subclassed"), exclude=None)),
        ("an integer as flag", "depthwise", lambda f: f(shared("dense"), depthwise=2)),
    ],
}


def built_relu():
    layer = L.ReLU()
    layer.build((None, 4))
    return layer


@pytest.mark.parametrize(
    "function, argument, call", parameters({**OF_TOPOLOGY, **OF_LAYERS})
)
def test_says_what_is_wrong(function, argument, call):
    wrong_calls.check(function, argument, call)


def test_every_public_name_is_in_a_table():
    left = wrong_calls.uncovered([stf.topology, stf.layers], OF_TOPOLOGY, OF_LAYERS)
    assert left == ["Measures"]  # which `measure` returns


def test_the_top_level_has_names_of_the_packages_alone():
    packages = [value for value in vars(stf).values() if inspect.ismodule(value)]
    names = {id(v) for p in packages for v in vars(p).values()}
    public = {n: v for n, v in vars(stf).items() if not n.startswith("_")}
    assert [n for n, v in public.items() if callable(v) and id(v) not in names] == []
    others = {"experiments", "kernels", "missing_names", "version"}
    assert {p.__name__.removeprefix("sparsenet_tf.") for p in packages} - others == {
        "interop",
        "layers",
        "pruning",
        "topology",
        "training",
        "transform",
        "visualization",
    }


def test_a_row_finds_what_says_nothing():
    def silent(value):
        return value

    def unnamed(value):
        raise ValueError("list index out of range")

    def changes(model):
        layer = model.layers[0]
        layer.bias.assign(layer.bias + 1)
        raise ValueError("`model` must be another. Received: this")

    for function, call in (
        (silent, lambda f: f(1)),
        (unnamed, lambda f: f(1)),
        (changes, lambda f: f(shared("changed"))),
    ):
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            wrong_calls.check(function, "model", call)
