"""Training loops."""

from sparsenet_tf.training.retrain import retrain_from_scratch as retrain_from_scratch
