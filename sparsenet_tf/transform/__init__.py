"""Models and masks to other models: masks in and out, rebuild, strip, summary."""

from sparsenet_tf.transform.compact import load_compact as load_compact
from sparsenet_tf.transform.convert import to_dense as to_dense
from sparsenet_tf.transform.convert import to_sparse as to_sparse
from sparsenet_tf.transform.export import export as export
from sparsenet_tf.transform.masks import get_masks as get_masks
from sparsenet_tf.transform.masks import load_masks as load_masks
from sparsenet_tf.transform.masks import save_masks as save_masks
from sparsenet_tf.transform.masks import shuffle_masks as shuffle_masks
from sparsenet_tf.transform.rebuild import rebuild as rebuild
from sparsenet_tf.transform.sparse_net import sparse_net as sparse_net
from sparsenet_tf.transform.strip import strip as strip
from sparsenet_tf.transform.summary import summary as summary
