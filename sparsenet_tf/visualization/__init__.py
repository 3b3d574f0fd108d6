"""Pictures of masks, topologies and pruning, as matplotlib figures."""

from sparsenet_tf.visualization.plot_masks import plot_masks as plot_masks
from sparsenet_tf.visualization.plot_sparsity import plot_sparsity as plot_sparsity
from sparsenet_tf.visualization.plot_topology import plot_topology as plot_topology
