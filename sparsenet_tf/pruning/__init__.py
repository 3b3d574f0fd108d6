"""When to prune, how much, and which weights."""

from sparsenet_tf.pruning.at_final_sparsity import AtFinalSparsity as AtFinalSparsity
from sparsenet_tf.pruning.callback import PruningCallback as PruningCallback
from sparsenet_tf.pruning.cosine_decay import CosineDecay as CosineDecay
from sparsenet_tf.pruning.criteria import Random as Random
from sparsenet_tf.pruning.criteria import magnitude as magnitude
from sparsenet_tf.pruning.movement import Movement as Movement
from sparsenet_tf.pruning.one_shot import prune_one_shot as prune_one_shot
from sparsenet_tf.pruning.rigl import RigL as RigL
from sparsenet_tf.pruning.schedules import ConstantSparsity as ConstantSparsity
from sparsenet_tf.pruning.schedules import PolynomialDecay as PolynomialDecay
from sparsenet_tf.pruning.sensitivity import SNIP as SNIP
from sparsenet_tf.pruning.sensitivity import Gradient as Gradient
from sparsenet_tf.pruning.sensitivity import GraSP as GraSP
from sparsenet_tf.pruning.set import SET as SET
from sparsenet_tf.pruning.structures import NM as NM
from sparsenet_tf.pruning.structures import Blocks as Blocks
from sparsenet_tf.pruning.structures import Units as Units
from sparsenet_tf.pruning.synflow import SynFlow as SynFlow
from sparsenet_tf.pruning.wanda import Wanda as Wanda
