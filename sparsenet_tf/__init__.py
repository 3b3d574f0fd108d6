"""Sparse neural networks that are practical to train, in TensorFlow and Keras 3."""

from sparsenet_tf import interop as interop
from sparsenet_tf import layers as layers
from sparsenet_tf import pruning as pruning
from sparsenet_tf import topology as topology
from sparsenet_tf import training as training
from sparsenet_tf import transform as transform
from sparsenet_tf import visualization as visualization
from sparsenet_tf.layers import sparsify as sparsify
from sparsenet_tf.pruning import ConstantSparsity as ConstantSparsity
from sparsenet_tf.pruning import PolynomialDecay as PolynomialDecay
from sparsenet_tf.pruning import PruningCallback as PruningCallback
from sparsenet_tf.pruning import prune_one_shot as prune_one_shot
from sparsenet_tf.training import SparsityLogger as SparsityLogger
from sparsenet_tf.training import retrain_from_scratch as retrain_from_scratch
from sparsenet_tf.transform import export as export
from sparsenet_tf.transform import get_masks as get_masks
from sparsenet_tf.transform import load_masks as load_masks
from sparsenet_tf.transform import rebuild as rebuild
from sparsenet_tf.transform import save_masks as save_masks
from sparsenet_tf.transform import sparse_net as sparse_net
from sparsenet_tf.transform import strip as strip
from sparsenet_tf.transform import summary as summary
from sparsenet_tf.transform import to_dense as to_dense
from sparsenet_tf.transform import to_sparse as to_sparse
from sparsenet_tf.version import __version__ as __version__
from sparsenet_tf.visualization import plot_masks as plot_masks
from sparsenet_tf.visualization import plot_sparsity as plot_sparsity
from sparsenet_tf.visualization import plot_topology as plot_topology


def __getattr__(name):
    # Called for names that are not there: those of other packages, or a level deeper.
    import sys

    from sparsenet_tf.missing_names import explain

    raise AttributeError(explain(sys.modules[__name__], name))
