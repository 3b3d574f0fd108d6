"""When to prune, how much, and which weights."""

from sparsenet_tf.pruning.callback import PruningCallback as PruningCallback
from sparsenet_tf.pruning.criteria import magnitude as magnitude
from sparsenet_tf.pruning.one_shot import prune_one_shot as prune_one_shot
from sparsenet_tf.pruning.schedules import ConstantSparsity as ConstantSparsity
from sparsenet_tf.pruning.schedules import PolynomialDecay as PolynomialDecay
from sparsenet_tf.pruning.structures import NM as NM
from sparsenet_tf.pruning.structures import Blocks as Blocks
from sparsenet_tf.pruning.structures import Units as Units
