"""The paper's data, networks and settings."""

from sparsenet_tf.experiments.data import Dataset as Dataset
from sparsenet_tf.experiments.data import load as load
from sparsenet_tf.experiments.models import PAPER_LENET_5 as PAPER_LENET_5
from sparsenet_tf.experiments.models import (
    PAPER_LENET_5_CIFAR10 as PAPER_LENET_5_CIFAR10,
)
from sparsenet_tf.experiments.models import PAPER_LENET_300_100 as PAPER_LENET_300_100
from sparsenet_tf.experiments.models import lenet_5 as lenet_5
from sparsenet_tf.experiments.models import lenet_300_100 as lenet_300_100
