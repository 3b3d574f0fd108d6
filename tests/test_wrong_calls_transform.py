"""Wrong calls of `stf.transform` and `stf.visualization`, and what they are told."""

import numpy as np
import pytest
import wrong_calls
from wrong_calls import (
    NAN,
    RAGGED,
    Missing,
    Says,
    X,
    not_models,
    parameters,
    shared,
)

import sparsenet_tf as stf
from sparsenet_tf.pruning import ConstantSparsity, PolynomialDecay
from sparsenet_tf.topology import RadixLayer, RadixNet
from sparsenet_tf.transform import (
    export,
    get_masks,
    load_compact,
    load_masks,
    rebuild,
    save_masks,
    shuffle_masks,
    sparse_net,
    strip,
    summary,
    to_dense,
    to_sparse,
)
from sparsenet_tf.visualization import plot_masks, plot_sparsity, plot_topology

EYE = np.eye(4, dtype=bool)
MASKS = {"hidden/kernel": np.ones((4, 5), bool)}
NOWHERE = "no_such_folder/file.npz"

OF_TRANSFORM = {
    export: [
        *not_models("model.npz"),
        ("an unbuilt model", "model", lambda f: f(shared("unbuilt"), "model.npz")),
        ("an empty model", "model", lambda f: f(shared("empty"), "model.npz")),
        (
            "a subclassed model with masks",
            "model",
            lambda f: f(stf.sparsify(wrong_calls.make_subclassed()), "model.npz"),
        ),
        ("a number as path", "path", lambda f: f(shared("masked"), 3)),
        ("None as path", "path", lambda f: f(shared("masked"), None)),
        ("another end", "path", lambda f: f(shared("masked"), "model.h5", "keras")),
        ("a folder of something", "path", lambda f: f(shared("masked"), ".")),
        ("no folder", Missing("path"), lambda f: f(shared("masked"), NOWHERE)),
        ("an unknown format", "format", lambda f: f(shared("masked"), "model", "h5")),
        ("a list as format", "format", lambda f: f(shared("masked"), "model", [])),
        ("a class as format", "format", lambda f: f(shared("masked"), "model", str)),
        (
            "a text to print with",
            "print_fn",
            lambda f: f(shared("masked"), "model.npz", print_fn="print"),
        ),
        (
            "options of another format",
            "options",
            lambda f: f(shared("masked"), "model.npz", input_signature=[X]),
        ),
    ],
    get_masks: [
        *not_models(),
        ("no masks", "model", lambda f: f(shared("dense"))),
        ("no layers", "model", lambda f: f(shared("empty"))),
    ],
    load_compact: [
        ("a number, an open file's", "path", lambda f: f(0)),
        ("a bool", "path", lambda f: f(True)),
        ("None", "path", lambda f: f(None)),
        ("no file", Missing("path"), lambda f: f(NOWHERE)),
        ("another file", "path", lambda f: f(__file__)),
    ],
    load_masks: [
        ("a number", "path", lambda f: f(3)),
        ("masks", "path", lambda f: f(MASKS)),
        ("no file", Missing("path"), lambda f: f(NOWHERE)),
        ("a folder", Missing("path"), lambda f: f(".")),
        ("another file", "path", lambda f: f(__file__)),
    ],
    rebuild: [
        *not_models(MASKS, 0),
        ("an unbuilt model", "model", lambda f: f(shared("unbuilt"), {}, 0)),
        ("an empty model", "model", lambda f: f(shared("empty"), {}, 0)),
        ("a list of masks", "masks", lambda f: f(shared("dense"), [EYE], 0)),
        ("None as masks", "masks", lambda f: f(shared("dense"), None, 0)),
        (
            "an unknown kernel",
            Says("`masks`", "'a/kernel'"),
            lambda f: f(shared("dense"), {"a/kernel": EYE}, 0),
        ),
        (
            "another shape",
            "mask",
            lambda f: f(shared("dense"), {"out/kernel": EYE}, 0),
        ),
        (
            "NaN",
            "mask",
            lambda f: f(shared("dense"), {"out/kernel": np.full((5, 3), NAN)}, 0),
        ),
        (
            "strings",
            "mask",
            lambda f: f(shared("dense"), {"out/kernel": np.full((5, 3), "1")}, 0),
        ),
        ("a negative seed", "seed", lambda f: f(shared("dense"), MASKS, -1)),
        ("a float", "seed", lambda f: f(shared("dense"), MASKS, 1.0)),
        ("a bool", "seed", lambda f: f(shared("dense"), MASKS, False)),
        ("an array", "seed", lambda f: f(shared("dense"), MASKS, np.arange(2))),
        (
            "a text as flag",
            "scale_to_fan_in",
            lambda f: f(shared("dense"), MASKS, 0, scale_to_fan_in="no"),
        ),
        (
            "a model that has no config",
            "model",
            lambda f: f(shared("subclassed_with_size"), {}, 0),
        ),
    ],
    save_masks: [
        ("a list of masks", "masks", lambda f: f("masks.npz", [EYE])),
        ("no masks", "masks", lambda f: f("masks.npz", {})),
        ("a model", "masks", lambda f: f("masks.npz", shared("masked"))),
        ("a number as key", "masks", lambda f: f("masks.npz", {1: EYE})),
        ("NaN", "mask", lambda f: f("masks.npz", {"a": [NAN]})),
        ("strings", "mask", lambda f: f("masks.npz", {"a": ["x"]})),
        ("rows of several lengths", "mask", lambda f: f("masks.npz", {"a": RAGGED})),
        ("a number as path", "path", lambda f: f(3, MASKS)),
        ("the arguments exchanged", "masks", lambda f: f(MASKS, "masks.npz")),
        ("no folder", Missing("path"), lambda f: f(NOWHERE, MASKS)),
    ],
    shuffle_masks: [
        ("a list of masks", "masks", lambda f: f([EYE], 0)),
        ("a model", "masks", lambda f: f(shared("masked"), 0)),
        ("NaN", "mask", lambda f: f({"a": [NAN]}, 0)),
        ("a negative seed", "seed", lambda f: f(MASKS, -1)),
        ("None", "seed", lambda f: f(MASKS, None)),
        ("a text", "seed", lambda f: f(MASKS, "0")),
        ("a bool", "seed", lambda f: f(MASKS, True)),
    ],
    sparse_net: [
        *not_models(0.5),
        ("an unbuilt model", "model", lambda f: f(shared("unbuilt"), 0.5)),
        ("no layer to replace", "model", lambda f: f(shared("no_kernels"), 0.5)),
        ("no layer between", "model", lambda f: f(shared("dense"), 0.5)),
        ("a subclassed model", "model", lambda f: f(shared("subclassed"), 0.5)),
        ("all pruned", "sparsity", lambda f: f(shared("dense"), 1.0)),
        ("a text", "sparsity", lambda f: f(shared("dense"), "0.5")),
        ("an unknown topology", "topology", lambda f: f(shared("dense"), 0.5, "ring")),
        (
            "a net as topology",
            "topology",
            lambda f: f(shared("dense"), 0.5, RadixNet((2, 2), (1, 1, 1))),
        ),
        (
            "a number of dense layers",
            "dense_first",
            lambda f: f(shared("dense"), 0.5, dense_first=2),
        ),
        (
            "None as flag",
            "dense_last",
            lambda f: f(shared("dense"), 0.5, dense_last=None),
        ),
        (
            "an unknown layer",
            Says("`exclude`", "'a'"),
            lambda f: f(shared("dense"), 0.5, exclude="a"),
        ),
        ("a number", "exclude", lambda f: f(shared("dense"), 0.5, exclude=1)),
        ("a negative seed", "seed", lambda f: f(shared("dense"), 0.5, seed=-1)),
        ("None as seed", "seed", lambda f: f(shared("dense"), 0.5, seed=None)),
    ],
    strip: [
        *not_models(),
        ("a text as flag", "shrink", lambda f: f(shared("masked"), shrink="no")),
        ("None as flag", "shrink", lambda f: f(shared("masked"), shrink=None)),
        ("an unbuilt model", "model", lambda f: f(shared("unbuilt"), shrink=True)),
        (
            "a subclassed model",
            "shrink",
            lambda f: f(shared("subclassed"), shrink=True),
        ),
    ],
    summary: [
        *not_models(print_fn=None),
        ("an unbuilt model", "model", lambda f: f(shared("unbuilt"))),
        ("an empty model", "model", lambda f: f(shared("empty"))),
        ("a text to print with", "print_fn", lambda f: f(shared("dense"), "print")),
    ],
    to_dense: [
        *not_models(),
        ("an unbuilt model", "model", lambda f: f(shared("unbuilt"))),
        (
            "a text as flag",
            "optimizer_state",
            lambda f: f(shared("sparse"), optimizer_state="yes"),
        ),
        (
            "no optimizer",
            "optimizer_state",
            lambda f: f(shared("uncompiled"), optimizer_state=True),
        ),
    ],
    to_sparse: [
        *not_models(),
        ("an unbuilt model", "model", lambda f: f(shared("unbuilt"))),
        ("an unknown word", "layers", lambda f: f(shared("masked"), "dense")),
        ("more than all", "layers", lambda f: f(shared("masked"), 1.5)),
        ("NaN", "layers", lambda f: f(shared("masked"), NAN)),
        ("names of layers", "layers", lambda f: f(shared("masked"), ["hidden"])),
        ("an array", "layers", lambda f: f(shared("masked"), np.ones(2))),
        ("no batch", "batch_size", lambda f: f(shared("masked"), batch_size=0)),
        ("a text", "batch_size", lambda f: f(shared("masked"), batch_size="32")),
        (
            "no optimizer",
            "optimizer_state",
            lambda f: f(shared("masked_uncompiled"), optimizer_state=True),
        ),
    ],
}

OF_VISUALIZATION = {
    plot_masks: [
        *not_models(),
        ("no masks", "model", lambda f: f(shared("dense"))),
        ("an unbuilt model", "model", lambda f: f(shared("unbuilt"))),
        ("an empty dict", "model", lambda f: f({})),
        ("a list of masks", "model", lambda f: f([EYE])),
        ("a number as key", "model", lambda f: f({1: EYE})),
        ("a mask of one axis", "model", lambda f: f({"a": [True]})),
        ("a mask of zero size", "model", lambda f: f({"a": np.ones((0, 3))})),
        ("NaN", "mask", lambda f: f({"a": [[NAN]]})),
        ("rows of several lengths", "mask", lambda f: f({"a": RAGGED})),
        ("no columns", "columns", lambda f: f({"a": EYE}, columns=0)),
        ("a float", "columns", lambda f: f({"a": EYE}, columns=1.0)),
        ("one pixel", "max_pixels", lambda f: f({"a": EYE}, max_pixels=1)),
        ("None as pixels", "max_pixels", lambda f: f({"a": EYE}, max_pixels=None)),
    ],
    plot_sparsity: [
        ("no schedule", "schedule", lambda f: f(None)),
        ("a sparsity", "schedule", lambda f: f(0.5)),
        ("a class", "schedule", lambda f: f(PolynomialDecay)),
        ("no steps", "end_step", lambda f: f(ConstantSparsity(0.5, 0), 0)),
        ("a float", "end_step", lambda f: f(ConstantSparsity(0.5, 0), 10.0)),
        ("NaN", "end_step", lambda f: f(ConstantSparsity(0.5, 0), NAN)),
    ],
    plot_topology: [
        ("None", "topology", lambda f: f(None)),
        ("a class", "topology", lambda f: f(RadixNet)),
        ("a model", "topology", lambda f: f(shared("dense"))),
        ("no layers", "topology", lambda f: f([])),
        ("a mask of one axis", "topology", lambda f: f([[True, False]])),
        ("NaN", "mask", lambda f: f(np.full((2, 2), NAN))),
        ("rows of several lengths", "topology", lambda f: f([RAGGED])),
        ("a mask of zero size", "topology", lambda f: f([np.ones((0, 3), bool)])),
        ("sizes that do not fit", "topology", lambda f: f([EYE, np.eye(3)])),
        ("too many lines", "topology", lambda f: f(RadixLayer(9, 3, 1), 5)),
        ("no lines", "max_connections", lambda f: f(RadixLayer(9, 3, 1), 0)),
        ("a text", "max_connections", lambda f: f(RadixLayer(9, 3, 1), "9")),
    ],
}


@pytest.mark.parametrize(
    "function, argument, call", parameters({**OF_TRANSFORM, **OF_VISUALIZATION})
)
def test_says_what_is_wrong(function, argument, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong_calls.check(function, argument, call)
    assert list(tmp_path.iterdir()) == []  # nor has it written anything


def test_every_public_name_is_in_a_table():
    modules = stf.transform, stf.visualization
    assert wrong_calls.uncovered(modules, OF_TRANSFORM, OF_VISUALIZATION) == []
