"""Keras' own layer tests, with each layer masked: what works there must work here.

    python tests/peers/keras_layer_tests.py --keras=CHECKOUT

CHECKOUT is a checkout of keras-team/keras at the version that is installed (`git
checkout v3.15.1`). Only its tests of layers are read, and run against the installed
Keras. Where one calls `run_layer_test`, the steps below are run with its layer. A step
that fails is run with the plain layer too: if that fails as well, it is Keras' own.

The exit status is 1 if a step fails that Keras passes. `KERAS_BACKEND` is heeded.
"""

import argparse
import collections
import importlib.util
import inspect
import json
import os
import pathlib
import sys
import tempfile
import time
import traceback
import unittest
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import ops
from keras.src.testing import test_case

import sparsenet_tf as stf
from sparsenet_tf.layers import tree

PASSED, OURS, KERAS, NOT_APPLICABLE = "passed", "ours", "Keras' own", "does not apply"


class DoesNotApply(Exception):
    """The step says nothing about such a layer."""


class Case:
    """A layer of a test, and what it is called with."""

    def __init__(self, kind, arguments, x, call_arguments, custom_objects):
        self.kind = kind
        self.arguments = arguments
        self.x = x
        self.call_arguments = call_arguments
        self.custom_objects = custom_objects

    def layer(self):
        keras.utils.set_random_seed(0)
        layer = self.kind(**self.arguments)
        # Tests hand one layer to many wrappers.
        return type(layer).from_config(layer.get_config())

    def call(self, layer, x):
        if isinstance(x, dict):
            return layer(**x, **self.call_arguments)
        return layer(x, **self.call_arguments)

    def model(self):
        """A plain functional model of the layer."""
        inputs = keras.tree.map_structure(_input, self.x)
        layer = self.layer()
        return keras.Model(inputs, self.call(layer, inputs))

    def outputs(self, model):
        """What `model` says of the data, from the same random and recurrent state."""
        for part in model._flatten_layers():
            if getattr(part, "stateful", False) and hasattr(part, "reset_state"):
                part.reset_state()
        for variable in model.variables:
            if variable.name == "seed_generator_state":
                variable.assign(ops.ones_like(variable))
        if isinstance(model, keras.Model):
            return _as_arrays(model(self.x))
        return _as_arrays(self.call(model, self.x))

    def train(self, model):
        """Two steps of Adam."""
        if not model.trainable_variables:
            raise DoesNotApply("nothing to train")
        outputs = model.outputs
        if not any(keras.backend.is_float_dtype(out.dtype) for out in outputs):
            raise DoesNotApply("outputs are integers")
        x = self.x
        if keras.backend.backend() == "torch":
            x = keras.tree.map_structure(ops.convert_to_numpy, x)
        size = keras.tree.flatten(self.x)[0].shape[0]
        model.compile(
            keras.optimizers.Adam(0.01),
            [_mean_square for _ in outputs],
            run_eagerly=keras.backend.backend() != "jax",
            jit_compile=False,
        )
        self.outputs(model)  # which sets the random state
        y = [np.zeros((size, 1), "float32") for _ in outputs]
        y = keras.tree.pack_sequence_as(model._outputs_struct, y)
        for _ in range(2):
            model.train_on_batch(x, y)


def _input(value):
    kind = type(value).__name__
    return keras.Input(
        batch_shape=tuple(value.shape),
        dtype=keras.backend.standardize_dtype(value.dtype),
        sparse=kind in ("SparseTensor", "BCOO"),
        ragged=kind == "RaggedTensor",
    )


def _as_arrays(structure):
    return [
        ops.convert_to_numpy(_as_dense(value))
        for value in keras.tree.flatten(structure)
    ]


def _as_dense(value):
    if type(value).__name__ == "RaggedTensor":
        return value.to_tensor()
    return ops.convert_to_tensor(value, sparse=False)


def _mean_square(y_true, y_pred):
    return ops.mean(ops.square(ops.cast(_as_dense(y_pred), "float32")))


def equal(found, wanted, tolerance=1e-6):
    assert len(found) == len(wanted), f"{len(found)} outputs, not {len(wanted)}"
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def copied_by_keras(model):
    new = keras.models.clone_model(model)
    new.set_weights(model.get_weights())
    return new


def saved_and_loaded(model):
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        return keras.models.load_model(f"{folder}/model.keras", safe_mode=False)


def pruned(case):
    """A pruned model; its kernels have zeros where masks have."""
    model = stf.sparsify(case.model())
    if not tree.kernels(model):  # or they are quantized
        raise DoesNotApply("no kernels")
    if not any(kernel.trainable for kernel in tree.kernels(model).values()):
        raise DoesNotApply("all kernels are frozen, and so left alone")
    return stf.pruning.prune_one_shot(model, 0.5)


def check_zeros(model, masks):
    kernels = tree.kernels(model)
    for path, mask in masks.items():
        assert not ops.convert_to_numpy(kernels[path])[~mask].any(), path


def masked_layer(case):
    """The layer in a wrapper with masks of ones."""
    layer = case.layer()
    wanted = case.outputs(layer)
    # Made only now: some layers draw their seeds when they are built.
    same = stf.layers.Masked(case.layer())
    equal(case.outputs(same), wanted)
    equal(case.outputs(same), case.outputs(layer))


def masked_model(case):
    """A model with masks of ones."""
    model = case.model()
    same = stf.sparsify(model)  # before a call, which may move the layer's state
    equal(case.outputs(same), case.outputs(model))
    equal(case.outputs(same), case.outputs(model))


def trained(case):
    """Two steps of Adam with masks of ones."""
    model, plain = stf.sparsify(case.model()), case.model()
    case.train(plain)
    wanted = case.outputs(plain)
    if not all(np.isfinite(value).all() for value in wanted):
        raise DoesNotApply("the plain layer's outputs are not finite")
    case.train(model)
    equal(case.outputs(model), wanted, 1e-4)


def pruned_and_trained(case):
    """Exact zeros after pruning and two steps of Adam."""
    model = pruned(case)
    masks = stf.get_masks(model)
    for path, mask in masks.items():
        expected = min(round(0.5 * mask.size), mask.size - 1)
        assert np.count_nonzero(~mask) == expected, path
    check_zeros(model, masks)
    case.train(model)
    check_zeros(model, masks)
    for path, mask in stf.get_masks(model).items():
        np.testing.assert_array_equal(mask, masks[path])


def saved(case):
    """A pruned model saved and loaded."""
    model = pruned(case)
    loaded = saved_and_loaded(model)
    equal(case.outputs(loaded), case.outputs(model))
    equal([*stf.get_masks(loaded).values()], [*stf.get_masks(model).values()], 0)


def stripped(case):
    """A pruned model stripped, and then saved and loaded."""
    model = pruned(case)
    plain = stf.strip(model)
    assert not any(tree.is_masked(layer) for layer in plain._flatten_layers())
    equal(case.outputs(plain), case.outputs(model))
    equal(case.outputs(saved_and_loaded(plain)), case.outputs(model))


def cloned(case):
    """A pruned model cloned by Keras."""
    model = pruned(case)
    new = copied_by_keras(model)
    equal([*stf.get_masks(new).values()], [*stf.get_masks(model).values()], 0)
    equal(case.outputs(new), case.outputs(model))


def rebuilt(case):
    """New weights on the same masks, which train."""
    model = pruned(case)
    masks = stf.get_masks(model)
    new = stf.rebuild(model, masks, seed=1)
    equal([*stf.get_masks(new).values()], [*masks.values()], 0)
    check_zeros(new, masks)
    assert [v.shape for v in new.weights] == [v.shape for v in model.weights]
    assert [a.shape for a in case.outputs(new)] == [
        a.shape for a in case.outputs(model)
    ]


def converted(case):
    """A pruned model in sparse form, and back."""
    model = pruned(case)
    wanted = case.outputs(model)
    sparse = stf.to_sparse(model, layers="all")
    equal(case.outputs(sparse), wanted, 1e-4)
    back = stf.to_dense(sparse)
    equal(case.outputs(back), wanted, 1e-4)


def plainly_called(case):
    layer = case.layer()
    equal(case.outputs(layer), case.outputs(layer))


def plainly_copied(case):
    model = case.model()
    equal(case.outputs(copied_by_keras(model)), case.outputs(model))


def plainly_trained(case):
    first, second = case.model(), case.model()
    case.train(first)
    case.train(second)
    equal(case.outputs(first), case.outputs(second), 1e-4)


def plainly_saved(case):
    model = case.model()
    equal(case.outputs(saved_and_loaded(model)), case.outputs(model))


# Each step, and what it is for a plain layer.
STEPS = {
    masked_layer: plainly_called,
    masked_model: plainly_copied,
    trained: plainly_trained,
    pruned_and_trained: plainly_trained,
    saved: plainly_saved,
    stripped: plainly_saved,
    cloned: plainly_copied,
    rebuilt: plainly_copied,
    converted: plainly_copied,
}


def run_step(step, case):
    """`(outcome, message)` of one step."""
    try:
        step(case)
        return PASSED, ""
    except DoesNotApply as error:
        return NOT_APPLICABLE, str(error)
    except Exception as error:
        ours = error
    try:
        STEPS[step](case)
    except DoesNotApply:
        pass
    except Exception as error:
        return KERAS, _short(error)
    where = "".join(traceback.format_tb(ours.__traceback__)[-2:])
    return OURS, f"{_short(ours)}\n{where}"


def _short(error):
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text:.300}"


class Recorder:
    """Takes the place of `run_layer_test` and keeps what came of each step."""

    def __init__(self, only):
        self.only = only
        self.records = []

    def run_layer_test(self, test, kind, init_kwargs, **kwargs):
        data = kwargs.get("input_data")
        shape, dtype = kwargs.get("input_shape"), kwargs.get("input_dtype")
        if data is None and shape is None:
            return
        if data is None:
            if dtype is None:
                dtype = keras.src.tree.map_shape_structure(lambda _: "float32", shape)
            data = test_case.create_eager_tensors(
                shape,
                dtype,
                kwargs.get("input_sparse", False),
                kwargs.get("input_ragged", False),
            )
        data = keras.tree.map_structure(
            lambda v: ops.convert_to_tensor(v) if isinstance(v, np.ndarray) else v, data
        )
        custom_objects = kwargs.get("custom_objects") or {}
        case = Case(
            kind, init_kwargs or {}, data, kwargs.get("call_kwargs") or {},
            custom_objects,
        )  # fmt: skip
        with keras.saving.custom_object_scope(custom_objects):
            for step in STEPS:
                if self.only and step.__name__ not in self.only:
                    continue
                outcome, message = run_step(step, case)
                self.records.append(
                    {
                        "test": test.id(),
                        "layer": kind.__name__,
                        "arguments": f"{init_kwargs!r:.200}",
                        "step": step.__name__,
                        "outcome": outcome,
                        "message": message,
                    }
                )


def test_files(checkout):
    folder = pathlib.Path(checkout) / "keras" / "src" / "layers"
    files = sorted(folder.rglob("*_test.py"))
    if not files:
        raise SystemExit(
            f"Error: `--keras` must be a checkout of keras-team/keras. Received: "
            f"{checkout}, which has no {folder}/**/*_test.py"
        )
    version = (pathlib.Path(checkout) / "keras/src/version.py").read_text()
    if f'"{keras.__version__}"' not in version:
        print(f"Note: the checkout is not of the installed Keras {keras.__version__}.")
    return files


def tests_in(path):
    """The tests of a file that call `run_layer_test`."""
    name = "peer_" + "_".join(path.with_suffix("").parts[-3:])
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    for suite in unittest.defaultTestLoader.loadTestsFromModule(module):
        for test in suite:
            method = getattr(test, test._testMethodName)
            if "run_layer_test" in inspect.getsource(inspect.unwrap(method)):
                yield test


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keras", required=True, help="checkout of keras-team/keras")
    parser.add_argument("--only", default="", help="part of the names of test files")
    parser.add_argument("--steps", default="", help="names of steps, with commas")
    parser.add_argument("--json", help="file for the records")
    options = parser.parse_args()
    steps = [name for name in options.steps.split(",") if name]
    unknown = set(steps) - {step.__name__ for step in STEPS}
    if unknown:
        parser.error(f"--steps must be of {[s.__name__ for s in STEPS]}")
    recorder = Recorder(steps)
    test_case.TestCase.run_layer_test = (
        lambda test, layer_cls, init_kwargs, *args, **kwargs: recorder.run_layer_test(
            test, layer_cls, init_kwargs, **kwargs
        )
    )
    warnings.simplefilter("ignore")
    began, broken = time.time(), []
    for path in test_files(options.keras):
        if options.only not in str(path):
            continue
        try:
            tests = [*tests_in(path)]
        except ImportError as error:
            broken.append((path.name, _short(error)))
            continue
        for test in tests:
            result = unittest.TestResult()
            test.run(result)
            for _, text in result.errors:
                # What a test does beside `run_layer_test` is Keras' own affair.
                broken.append((test.id(), text.strip().splitlines()[-1]))
        keras.backend.clear_session()
        print(f"{path.name}: {len(recorder.records)} steps", file=sys.stderr)
    report(recorder.records, broken, time.time() - began)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(recorder.records, indent=1))
    if not recorder.records:
        print("Error: no steps were run")
    failed = any(record["outcome"] == OURS for record in recorder.records)
    sys.exit(1 if failed or not recorder.records else 0)


def report(records, broken, seconds):
    outcomes = (PASSED, OURS, KERAS, NOT_APPLICABLE)
    for record in records:
        if record["outcome"] in (OURS, KERAS):
            print(
                "{outcome}: {step} of {layer}({arguments}) in {test}\n"
                "    {message}".format(**record)
            )
    for name, text in broken:
        print(f"not run to its end: {name}: {text:.200}")
    counts = collections.Counter((r["step"], r["outcome"]) for r in records)
    print(f"\n{'step':20}" + "".join(f"{outcome:>16}" for outcome in outcomes))
    for step in STEPS:
        name = step.__name__
        print(f"{name:20}" + "".join(f"{counts[name, o]:16}" for o in outcomes))
    total = collections.Counter(r["outcome"] for r in records)
    print(f"{'all':20}" + "".join(f"{total[o]:16}" for o in outcomes))
    calls = len(records) // len({r["step"] for r in records} or [1])
    print(
        f"{calls} calls of run_layer_test, {len(records)} steps, Keras "
        f"{keras.__version__} with {keras.backend.backend()}, {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
