"""Release what TensorFlow keeps of each model that is trained."""

import contextlib
import gc

import keras


@contextlib.contextmanager
def released():
    """Let go, at the end, of the models that are made inside.

    TensorFlow registers each custom gradient that it traces, one of its own loss
    `sparse_softmax_cross_entropy_with_logits` among them, and so holds the graph of
    every training step for ever: 8 MB for each LeNet-300-100. These are taken from its
    register, which it has no public way for; nothing made inside may be used later.
    """
    before = set(_gradients())
    try:
        yield
    finally:
        keras.backend.clear_session()
        gradients = _gradients()
        for name in [n for n in gradients if n not in before]:
            if name.startswith("CustomGradient"):
                del gradients[name]
        gc.collect()  # models lie in reference cycles


def _gradients():
    """TensorFlow's register, or an empty one where it is kept in another way."""
    try:
        from tensorflow.python.framework import ops

        return ops.gradient_registry._registry
    except (ImportError, AttributeError):
        return {}
