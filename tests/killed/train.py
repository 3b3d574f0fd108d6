"""Trains, prunes and writes results in a folder; started again, it goes on.

python tests/killed/train.py FOLDER
"""

import hashlib
import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import sparsenet_tf as stf  # noqa: E402
from sparsenet_tf.experiments import files  # noqa: E402

STEPS, EVERY = 240, 4


class Checkpoints(keras.callbacks.Callback):
    """Writes a checkpoint after each period of the compiled loop."""

    def __init__(self, manager):
        super().__init__()
        self.manager = manager

    def on_epoch_end(self, epoch, logs=None):
        self.manager.save()


def main(folder):
    """Go on with what is in the folder, until all of it is done."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 20)).astype("float32")
    y = rng.normal(size=(400, 5)).astype("float32")
    model = keras.Sequential(
        [
            keras.Input((20,)),
            keras.layers.Dense(60, activation="relu", name="first"),
            keras.layers.Dense(5, name="second"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model = stf.sparsify(model)
    model.optimizer.build(model.trainable_variables)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    manager = tf.train.CheckpointManager(checkpoint, folder / "checkpoints", 2)
    manager.restore_or_initialize()
    step = int(model.optimizer.iterations)
    print("begun", step, flush=True)
    schedule = stf.pruning.PolynomialDecay(0.0, 0.9, 10, 200, frequency=3)
    if step < STEPS:
        stf.training.fit(
            model,
            x,
            y,
            steps=STEPS - step,
            batch_size=40,
            evaluate_every=EVERY,
            callbacks=[stf.pruning.PruningCallback(schedule), Checkpoints(manager)],
        )
    # Often, so that some moments are in the midst of it.
    for _ in range(100):
        stf.save_masks(folder / "masks.npz", stf.get_masks(model))
        digest = hashlib.sha256()
        for variable in [*model.variables, *model.optimizer.variables]:
            digest.update(np.asarray(variable).tobytes())
        result = json.dumps({"digest": digest.hexdigest()})
        files.write_whole(folder / "result.json", result.encode())
    print("done", flush=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
