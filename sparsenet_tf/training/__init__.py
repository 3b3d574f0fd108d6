"""Training loops."""

from sparsenet_tf.training.retrain import retrain_from_scratch as retrain_from_scratch
from sparsenet_tf.training.sparsity_logger import SparsityLogger as SparsityLogger


def __getattr__(name):
    # Only now, because it imports TensorFlow, which other backends have no need of.
    if name == "fit":
        from sparsenet_tf.training.loop import fit

        return fit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
