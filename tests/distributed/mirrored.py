"""Train models on two CPU devices and on one, and print how far apart they end.

Run by test_distribute.py in a process of its own: the devices are made before
TensorFlow begins.
"""

import json

import keras
import numpy as np
import tensorflow as tf

import sparsenet_tf as stf

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 8, 8, 2)).astype("float32")
Y = RNG.integers(0, 3, 60)
CONV_MASK, DENSE_MASK = RNG.random((3, 3, 2, 6)) < 0.5, RNG.random((216, 20)) < 0.3
SCHEDULE = stf.pruning.PolynomialDecay(0.0, 0.8, 3, 12, frequency=3)


def seeded(seed):
    return {"kernel_initializer": keras.initializers.GlorotUniform(seed)}


def network(conv, *hidden):
    last = L.Dense(3, **seeded(3))
    return keras.Sequential([keras.Input((8, 8, 2)), conv, *hidden, last])


def masked():
    conv = L.Conv2D(6, 3, activation="relu", **seeded(1))
    norm = L.BatchNormalization()
    dense = L.Dense(20, "relu", **seeded(2))
    return stf.sparsify(network(conv, norm, L.Flatten(), dense))


def radix():
    topology = stf.topology.RadixLayer(2, 2, 1, width_out=6)
    conv = stf.layers.RadixConv2D(topology, 3, **seeded(1))
    dense = stf.layers.RadixDense(
        stf.topology.RadixLayer(12, 3, 1), "relu", **seeded(2)
    )
    return network(conv, L.GlobalAveragePooling2D(), dense)


def sparse():
    conv = stf.layers.SparseConv2D(CONV_MASK, 3, **seeded(1))
    dense = stf.layers.SparseDense(DENSE_MASK, "relu", **seeded(2))
    return network(conv, L.Flatten(), dense)


def train(build, strategy, optimizer):
    with strategy.scope():
        model = build()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer(), loss)
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(12)
    callbacks = [stf.pruning.PruningCallback(SCHEDULE)] if build is masked else []
    model.fit(data, epochs=3, verbose=0, callbacks=callbacks)
    return model


def main():
    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, devices)
    one = tf.distribute.get_strategy()
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    found = []
    for build in (masked, radix, sparse):
        for optimizer in (
            lambda: keras.optimizers.SGD(0.1, momentum=0.9),
            lambda: keras.optimizers.Adam(0.01),
        ):
            alone, model = train(build, one, optimizer), train(build, two, optimizer)
            pairs = zip(alone.get_weights(), model.get_weights(), strict=True)
            replicas = [
                [value.numpy() for value in two.experimental_local_results(v.value)]
                for v in model.variables
                # Each replica of a normalization has statistics of its own batch.
                if "moving" not in v.name
            ]
            result = {
                "model": build.__name__,
                "replicas": two.num_replicas_in_sync,
                "from_one_device": max(float(np.abs(a - b).max()) for a, b in pairs),
                "between_replicas": max(
                    float(np.abs(value - values[0]).max())
                    for values in replicas
                    for value in values
                ),
                "copies": min(map(len, replicas)),
            }
            if build is masked:
                masks = stf.get_masks(model)
                result["sparsity"] = float(
                    1 - np.mean(np.concatenate([m.ravel() for m in masks.values()]))
                )
                plain = stf.strip(model)
                result["kept"] = sum(int(m.sum()) for m in masks.values())
                result["nonzero"] = sum(
                    int(np.count_nonzero(w)) for w in plain.get_weights() if w.ndim > 1
                )
            found.append(result)
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
