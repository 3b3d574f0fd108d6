"""Which connections exist: shapes and scores in, boolean masks out. Numpy alone."""

from sparsenet_tf.topology.selection import select_mask as select_mask
from sparsenet_tf.topology.selection import select_masks as select_masks
