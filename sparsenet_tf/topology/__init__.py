"""Which connections exist: shapes and scores in, boolean masks out. Numpy alone."""

from sparsenet_tf.topology.allocation import allocate as allocate
from sparsenet_tf.topology.measure import Measures as Measures
from sparsenet_tf.topology.measure import measure as measure
from sparsenet_tf.topology.radix_layer import RadixLayer as RadixLayer
from sparsenet_tf.topology.radix_search import find_radix_layer as find_radix_layer
from sparsenet_tf.topology.radixnet import RadixNet as RadixNet
from sparsenet_tf.topology.random import expander_mask as expander_mask
from sparsenet_tf.topology.random import random_mask as random_mask
from sparsenet_tf.topology.selection import select_mask as select_mask
from sparsenet_tf.topology.selection import select_masks as select_masks
from sparsenet_tf.topology.sparse_pattern import SparsePattern as SparsePattern
