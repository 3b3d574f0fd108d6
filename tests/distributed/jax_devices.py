"""Train on two CPU devices of JAX by `keras.distribution`, and on one.

Run by test_distribute_jax.py in a process of its own: the devices are made before JAX
begins. Prints how far apart the two end.
"""

import json

import jax
import keras
import numpy as np

import sparsenet_tf as stf

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 10)).astype("float32")
Y = RNG.normal(size=(60, 3)).astype("float32")


def build():
    keras.utils.set_random_seed(0)
    radix = stf.layers.RadixDense(stf.topology.RadixLayer(12, 3, 1), "relu")
    model = keras.Sequential(
        [keras.Input((10,)), L.Dense(12, "relu"), radix, L.Dense(3)]
    )
    return stf.sparsify(model)


def train(distribution):
    keras.distribution.set_distribution(distribution)
    model = build()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    schedule = stf.pruning.PolynomialDecay(0.0, 0.8, 3, 12, frequency=3)
    callback = stf.pruning.PruningCallback(schedule)
    model.fit(X, Y, batch_size=12, epochs=3, verbose=0, callbacks=[callback])
    return model


def main():
    two = keras.distribution.DataParallel(devices=keras.distribution.list_devices())
    alone, model = train(None), train(two)
    pairs = zip(alone.get_weights(), model.get_weights(), strict=True)
    masks = zip(
        stf.get_masks(alone).values(), stf.get_masks(model).values(), strict=True
    )
    found = {
        "devices": len(jax.devices()),
        "replicas": min(len(v.value.addressable_shards) for v in model.variables),
        "apart": max(float(np.abs(a - b).max()) for a, b in pairs),
        "masks_differ": sum(int((a != b).sum()) for a, b in masks),
        "kept": sum(int(m.sum()) for m in stf.get_masks(model).values()),
    }
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
