"""Bridges to other pruning libraries, none of which is imported here."""

from sparsenet_tf.interop import tfmot as tfmot
