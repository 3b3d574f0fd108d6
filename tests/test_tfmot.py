"""Agreement with tensorflow-model-optimization (tfmot): its schedules, its masks.

tfmot runs in other processes: importing it sets `TF_USE_LEGACY_KERAS` for all that
follows. It belongs to the `tests` extra, so that its absence is a failure here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import sparsenet_tf as stf

ROOT = Path(__file__).resolve().parent.parent

# (class, arguments). The frequencies of the first and last do not divide the range.
SCHEDULES = [
    ("PolynomialDecay", dict(initial_sparsity=0.0, final_sparsity=0.9, begin_step=3,
                             end_step=50, power=3, frequency=10)),
    ("PolynomialDecay", dict(initial_sparsity=0.25, final_sparsity=0.75, begin_step=0,
                             end_step=60, power=1, frequency=6)),
    ("ConstantSparsity", dict(target_sparsity=0.6, begin_step=5, frequency=7)),
    ("ConstantSparsity", dict(target_sparsity=0.5, begin_step=2, end_step=40,
                              frequency=9)),
]  # fmt: skip
STEPS = 80

# Both libraries in one process, as where a user hands over a tfmot schedule.
SCHEDULES_SCRIPT = """
import json, os, sys
import keras
before = dict(os.environ)
import sparsenet_tf as stf
import sparsenet_tf.interop.tfmot
loaded = {"tensorflow_model_optimization", "tf_keras"} & set(sys.modules)
state = {"environment_kept": dict(os.environ) == before, "loaded": sorted(loaded)}

import numpy as np
from tensorflow_model_optimization.sparsity import keras as tfmot
task = json.loads(sys.argv[1])
state["schedules"] = []
for name, arguments in task["schedules"]:
    theirs = getattr(tfmot, name)(**arguments)
    ours = stf.interop.tfmot.as_schedule(theirs)
    assert isinstance(ours, getattr(stf.pruning, name)), ours
    assert vars(stf.pruning.PruningCallback(theirs).schedule) == vars(ours)
    rows = []
    for step in range(task["steps"]):
        due, sparsity = theirs(step)
        rows.append([bool(due), float(sparsity),
                     ours.last_update(step) == step, ours(step)])
    state["schedules"].append({"rows": rows, "config": ours.get_config()})

model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(10)])
model = stf.sparsify(model)
model.compile("sgd", "mse")
schedule = tfmot.PolynomialDecay(0.0, 0.5, begin_step=0, end_step=8, frequency=4)
model.fit(np.ones((16, 8)), np.ones((16, 10)), batch_size=1, verbose=0,
          callbacks=[stf.pruning.PruningCallback(schedule)])
state["zeros"] = int(np.sum(model.layers[0].kernel.numpy() == 0))
print(json.dumps(state))
"""

# tfmot's wrapper, called on a training batch as `fit` calls it, at the steps at which
# an update is due; in between the weights are multiplied by the given noise.
MASKS_SCRIPT = """
import json, sys
import numpy as np
import tf_keras
from tensorflow_model_optimization.sparsity import keras as tfmot
path, arguments = sys.argv[1], json.loads(sys.argv[2])
given = dict(np.load(path))
steps = given["steps"]
layers = {"dense": tf_keras.layers.Dense(given["dense"].shape[-1]),
          "conv": tf_keras.layers.Conv2D(given["conv"].shape[-1],
                                         given["conv"].shape[:2])}
found = {}
for name, layer in layers.items():
    fan_in = given[name].shape[-2]
    x = np.ones((2, fan_in) if name == "dense" else (2, 5, 5, fan_in), "float32")
    wrapper = tfmot.prune_low_magnitude(
        layer, pruning_schedule=tfmot.PolynomialDecay(**arguments))
    wrapper.build(x.shape)
    layer.kernel.assign(given[name])
    masks, kernels = [], []
    for step, noise in zip(steps, given[name + "_noise"]):
        layer.kernel.assign(layer.kernel.numpy() * noise)
        wrapper.pruning_step.assign(step - 1)  # The call counts it up.
        wrapper(x, training=True)
        assert int(wrapper.pruning_step) == step
        masks.append(wrapper.pruning_vars[0][1].numpy() != 0)
        kernels.append(layer.kernel.numpy())
    found[name + "_masks"], found[name + "_kernels"] = masks, kernels
np.savez(path, **found)
"""


def run(script, *arguments):
    """Runs a script in a fresh process and returns what it prints."""
    environ = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def together():
    task = json.dumps({"schedules": SCHEDULES, "steps": STEPS})
    return json.loads(run(SCHEDULES_SCRIPT, task).splitlines()[-1])


def test_importing_the_module_imports_no_tfmot(together):
    assert together["environment_kept"]
    assert together["loaded"] == []


@pytest.mark.parametrize("index", range(len(SCHEDULES)))
@pytest.mark.often("0")
def test_schedules_prune_as_much_at_the_same_steps(together, index):
    _, arguments = SCHEDULES[index]
    found = together["schedules"][index]
    assert found["config"] == {"end_step": -1, **arguments}
    their_due = [step for step, row in enumerate(found["rows"]) if row[0]]
    our_due = [step for step, row in enumerate(found["rows"]) if row[2]]
    assert len(their_due) >= 5
    # Ours alone always prunes at the end of a decay too, to reach the final sparsity.
    end = {arguments["end_step"]} if "final_sparsity" in arguments else set()
    assert set(our_due) == set(their_due) | end
    theirs = [found["rows"][step][1] for step in our_due]
    ours = [found["rows"][step][3] for step in our_due]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_keras_3_trains_under_a_schedule_of_tfmot(together):
    assert together["zeros"] == 40  # half of 8 * 10


@pytest.mark.slow
def test_updates_select_the_masks_of_tfmot(tmp_path):
    decay = dict(
        initial_sparsity=0.25,
        final_sparsity=0.9,
        begin_step=10,
        end_step=60,
        power=3,
        frequency=10,
    )
    steps = range(10, 61, 10)
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(size=shape).astype("float32")
        for name, shape in {"dense": (23, 17), "conv": (3, 3, 5, 8)}.items()
    }
    noise = {
        name: rng.uniform(0.5, 2.0, (len(steps), *value.shape)).astype("float32")
        for name, value in weights.items()
    }
    schedule = stf.pruning.PolynomialDecay(**decay)
    for value in weights.values():
        for step in steps:
            # tfmot rounds the number it keeps, in float32, and we the number we prune:
            # they agree where neither is near a half.
            assert abs(schedule(step) * value.size % 1 - 0.5) > 0.02

    path = tmp_path / "exchange.npz"
    np.savez(
        path, steps=steps, **weights, **{f"{k}_noise": v for k, v in noise.items()}
    )
    run(MASKS_SCRIPT, str(path), json.dumps(decay))
    theirs = dict(np.load(path))

    inputs = [keras.Input((23,)), keras.Input((5, 5, 5))]
    dense = keras.layers.Dense(17, name="dense")(inputs[0])
    conv = keras.layers.Conv2D(8, 3, name="conv")(inputs[1])
    model = stf.sparsify(keras.Model(inputs, [dense, conv]))
    model.compile("sgd", ["mse", "mse"])
    callback = stf.pruning.PruningCallback(schedule)
    callback.set_model(model)
    callback.on_train_begin()
    kernels = {name: model.get_layer(name).kernel for name in weights}
    for name, kernel in kernels.items():
        kernel.assign(weights[name])
    for i, step in enumerate(steps):
        for name, kernel in kernels.items():
            kernel.assign(kernel.numpy() * noise[name][i])
            magnitudes = np.abs(kernel.numpy()[kernel.numpy() != 0])
            # Among equals tfmot keeps more than its share.
            assert np.unique(magnitudes).size == magnitudes.size
        model.optimizer.iterations.assign(step)
        callback.on_train_batch_end(step)
        for name, kernel in kernels.items():
            mask = model.get_layer(name).masks["kernel"]
            assert np.count_nonzero(~mask) == round(schedule(step) * mask.size)
            np.testing.assert_array_equal(mask, theirs[f"{name}_masks"][i])
            np.testing.assert_array_equal(kernel.numpy(), theirs[f"{name}_kernels"][i])
    assert round(callback.sparsity, 2) == 0.9
