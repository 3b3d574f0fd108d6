"""What tests need of whichever backend Keras has: arrays, gradients, a step."""

import keras
import numpy as np

BACKEND = keras.backend.backend()


def several_steps(number):
    """That many steps in an execution, where Keras can do more than one."""
    return 1 if BACKEND == "torch" else number


# Whether `jit_compile=True` costs no more than a second: `torch.compile` takes many.
COMPILES_FAST = BACKEND != "torch"
# Keras computes products of float64 in float32 with PyTorch.
DOUBLE_PRECISION = 1e-5 if BACKEND == "torch" else 1e-12


def values(x):
    """A tensor, a variable, or what else NumPy takes, as a NumPy array."""
    x = keras.ops.convert_to_numpy(x)
    return x.astype("float32") if x.dtype.name == "bfloat16" else x


def assert_allclose(actual, desired, **options):
    np.testing.assert_allclose(values(actual), values(desired), **options)


def assert_array_equal(actual, desired, **options):
    np.testing.assert_array_equal(values(actual), values(desired), **options)


def activity_loss(outputs, regularizer):
    """What Keras adds for them to the loss, divided by the batch's size or not."""
    layer = keras.layers.Activation("linear", activity_regularizer=regularizer)
    layer(outputs)
    return float(values(layer.losses[0]))


def output_and_gradients(function, inputs, upstream):
    """`function(*inputs)`, and the gradients to the inputs of what flows back.

    Args:
        function: of tensors, to a tensor.
        inputs: list of arrays.
        upstream: array that flows back, or a function that makes it of the output.
    """
    inputs = [keras.ops.convert_to_tensor(x) for x in inputs]
    if not callable(upstream):
        given, upstream = upstream, lambda output: given

    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = function(*inputs)
        return output, *tape.gradient(output, inputs, upstream(output))

    if BACKEND == "jax":
        import jax

        output, pull = jax.vjp(function, *inputs)
        back = keras.ops.convert_to_tensor(upstream(output), output.dtype)
        return output, *pull(back)

    import torch

    inputs = [x.clone().requires_grad_() for x in inputs]
    output = function(*inputs)
    back = keras.ops.convert_to_tensor(upstream(output.detach()), output.dtype)
    return output.detach(), *torch.autograd.grad(output, inputs, back)


def gradients_of(loss, weights):
    """The gradients of `loss()`, a scalar tensor, to variables."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss()
        return tape.gradient(value, weights)

    if BACKEND == "jax":
        import jax

        def stateless(values_of_weights):
            mapping = zip(weights, values_of_weights, strict=True)
            with keras.StatelessScope(mapping):
                return loss()

        return jax.grad(stateless)([v.value for v in weights])

    import torch

    return torch.autograd.grad(loss(), [v.value for v in weights])


# How a user's own loop may be compiled.
COMPILED = {
    "tensorflow": (False, True, "jit"),
    "jax": (False, "jit"),
    "torch": (False,),
}[BACKEND]


def own_step(model, optimizer, x, y, compiled=False):
    """A training step for the mean squared error, as a user may write it."""
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    make = {"tensorflow": _tensorflow_step, "jax": _jax_step, "torch": _torch_step}
    return make[BACKEND](model, optimizer, x, y, scaled, compiled)


def _tensorflow_step(model, optimizer, x, y, scaled, compiled):
    import tensorflow as tf

    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            loss = optimizer.scale_loss(loss) if scaled else loss
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    if compiled:
        optimizer.build(model.trainable_variables)
        step = tf.function(step, jit_compile=compiled == "jit")
    return step


def _jax_step(model, optimizer, x, y, scaled, compiled):
    import jax

    optimizer.build(model.trainable_variables)

    def loss(trainable, non_trainable, slots):
        outputs, non_trainable = model.stateless_call(
            trainable, non_trainable, x, training=True
        )
        loss = ((outputs - y) ** 2).mean()
        with keras.StatelessScope(zip(optimizer.variables, slots, strict=True)):
            return optimizer.scale_loss(loss) if scaled else loss, non_trainable

    def stateless_step(trainable, non_trainable, slots):
        gradients, non_trainable = jax.grad(loss, has_aux=True)(
            trainable, non_trainable, slots
        )
        trainable, slots = optimizer.stateless_apply(slots, gradients, trainable)
        return trainable, non_trainable, slots

    if compiled:
        stateless_step = jax.jit(stateless_step)

    def step():
        variables = (
            model.trainable_variables,
            model.non_trainable_variables,
            optimizer.variables,
        )
        state = stateless_step(*([v.value for v in group] for group in variables))
        for group, new in zip(variables, state, strict=True):
            for variable, value in zip(group, new, strict=True):
                variable.assign(value)

    return step


def _torch_step(model, optimizer, x, y, scaled, compiled):
    import torch

    assert not compiled

    def step():
        model.zero_grad()
        loss = ((model(x, training=True) - torch.as_tensor(y)) ** 2).mean()
        (optimizer.scale_loss(loss) if scaled else loss).backward()
        variables = model.trainable_variables
        with torch.no_grad():
            optimizer.apply([v.value.grad for v in variables], variables)

    return step


def separate_arrays(model):
    """Undo what keeps Keras' JAX trainer from a second `fit` with moving averages.

    After a first one weights and averages are the same arrays, which it gives away.
    """
    if BACKEND == "jax":
        for variable in model.variables:
            variable.assign(keras.ops.copy(variable))
