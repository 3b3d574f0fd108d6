"""Hypothesis strategies: models of all kinds of layers, and data for them."""

import dataclasses

import keras
import numpy as np
from backends import BACKEND
from hypothesis import strategies as st

L = keras.layers
ACTIVATIONS = st.sampled_from([None, "relu", "tanh", "gelu"])
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05),
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "clipped": lambda: keras.optimizers.AdamW(0.01, global_clipnorm=0.5),
    "lion": lambda: keras.optimizers.Lion(0.005),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    "ftrl": lambda: keras.optimizers.Ftrl(0.05),
    "accumulating": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to make a model, so that equal plans make equal models."""

    inputs: str  # "vectors", "images" or "words"
    layers: tuple  # of (kind, size, activation)
    optimizer: str
    nested: bool
    functional: bool

    def build(self):
        """Return the model, compiled, with three outputs."""
        keras.utils.set_random_seed(1)
        shape, dtype = {
            "vectors": ((6,), "float32"),
            "images": ((6, 6, 2), "float32"),
            "words": ((5,), "int32"),
        }[self.inputs]
        layers = [_layer(i, *spec) for i, spec in enumerate(self.layers)]
        if self.inputs == "words":
            layers.insert(0, L.Embedding(11, 4, name="words"))
        if self.inputs == "images":
            layers.append(L.Flatten(name="flat"))
        if self.inputs == "words":
            layers.append(L.GlobalAveragePooling1D(name="mean"))
        if self.nested:
            inner = layers[0].name != "words"
            layers = [keras.Sequential(layers, name="body")] if inner else layers
        layers.append(L.Dense(3, name="out"))
        if self.functional:
            x = inputs = keras.Input(shape, dtype=dtype)
            for layer in layers:
                x = layer(x)
            model = keras.Model(inputs, x)
        else:
            model = keras.Sequential([keras.Input(shape, dtype=dtype), *layers])
        self.compile(model)
        return model

    def compile(self, model):
        """Compile it anew."""
        model.compile(OPTIMIZERS[self.optimizer](), "mse")

    def data(self, count=16):
        """Return `(x, y)`."""
        rng = np.random.default_rng(0)
        x = {
            "vectors": lambda: rng.normal(size=(count, 6)).astype("float32"),
            "images": lambda: rng.normal(size=(count, 6, 6, 2)).astype("float32"),
            "words": lambda: rng.integers(0, 11, (count, 5)).astype("int32"),
        }[self.inputs]()
        return x, rng.normal(size=(count, 3)).astype("float32")


def _layer(number, kind, size, activation):
    name = f"{kind}{number}"
    make = {
        "dense": lambda: L.Dense(size, activation=activation, name=name),
        "norm": lambda: L.BatchNormalization(name=name),
        "einsum": lambda: L.EinsumDense("ab,bc->ac", size, name=name),
        "conv": lambda: L.Conv2D(
            size, 3, padding="same", activation=activation, name=name
        ),
        "depthwise": lambda: L.DepthwiseConv2D(2, padding="same", name=name),
        "separable": lambda: L.SeparableConv2D(size, 2, padding="same", name=name),
        "transposed": lambda: L.Conv2DTranspose(size, 2, padding="same", name=name),
        "lstm": lambda: L.LSTM(size, return_sequences=True, name=name),
        "gru": lambda: L.GRU(size, return_sequences=True, name=name),
        "bidirectional": lambda: L.Bidirectional(
            L.SimpleRNN(size, return_sequences=True), name=name
        ),
        "conv1d": lambda: L.Conv1D(size, 2, padding="causal", name=name),
    }
    return make[kind]()


KINDS = {
    "vectors": ["dense", "norm", "einsum"],
    "images": ["conv", "norm", "depthwise", "separable", "transposed"],
    "words": ["lstm", "gru", "bidirectional", "conv1d", "norm"],
}


@st.composite
def plans(draw):
    """A `Plan` of one to three layers and an output layer."""
    inputs = draw(st.sampled_from(sorted(KINDS)))
    specs = st.tuples(st.sampled_from(KINDS[inputs]), st.integers(2, 5), ACTIVATIONS)
    layers = tuple(draw(st.lists(specs, min_size=1, max_size=3)))
    # Keras' own accumulated gradients are refused by its JAX trainer in turns.
    known = sorted(OPTIMIZERS)
    if BACKEND == "jax":
        known.remove("accumulating")
    optimizer = draw(st.sampled_from(known))
    return Plan(inputs, layers, optimizer, draw(st.booleans()), draw(st.booleans()))
