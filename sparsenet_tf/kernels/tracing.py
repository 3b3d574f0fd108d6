"""Whether a graph is being made of what runs."""

import keras


def is_traced_by_tensorflow():
    """Whether a `tf.function` is being traced.

    >>> is_traced_by_tensorflow()
    False
    """
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return tf.inside_function()
