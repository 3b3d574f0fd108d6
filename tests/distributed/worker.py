"""One of two processes that train together by `MultiWorkerMirroredStrategy`.

Run by test_distribute.py, which says by `TF_CONFIG` who takes part. Prints what became
of a plain Keras model and of a masked one.
"""

import json

import keras
import numpy as np
import tensorflow as tf

import sparsenet_tf as stf


def build():
    kernel = keras.initializers.GlorotUniform(1)
    dense = keras.layers.Dense(3, kernel_initializer=kernel)
    return keras.Sequential([keras.Input((10,)), dense])


def train(strategy, build, *callbacks):
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(60, n)).astype("float32") for n in (10, 3))
    with strategy.scope():
        model = build()
        model.compile("sgd", "mse")
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(12)
    try:
        model.fit(data, epochs=3, verbose=0, callbacks=list(callbacks))
    except (ValueError, RuntimeError, NotImplementedError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"weights": [w.tolist() for w in model.get_weights()]}


def main():
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    schedule = stf.pruning.PolynomialDecay(0.0, 0.5, 2, 10, frequency=2)
    callback = stf.pruning.PruningCallback(schedule)
    found = {
        "plain": train(strategy, build),
        "masked": train(strategy, lambda: stf.sparsify(build()), callback),
    }
    print("\n" + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
