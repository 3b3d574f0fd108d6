"""Keras layers whose kernels are sparse."""

from sparsenet_tf.layers.masked import Masked as Masked
from sparsenet_tf.layers.sparsify import sparsify as sparsify
