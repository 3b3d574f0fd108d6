"""Keras layers whose kernels are sparse."""

from sparsenet_tf.layers.masked import Masked as Masked
from sparsenet_tf.layers.radix_conv import RadixConv2D as RadixConv2D
from sparsenet_tf.layers.radix_dense import RadixDense as RadixDense
from sparsenet_tf.layers.sparse_conv import SparseConv2D as SparseConv2D
from sparsenet_tf.layers.sparse_dense import SparseDense as SparseDense
from sparsenet_tf.layers.sparsify import sparsify as sparsify
