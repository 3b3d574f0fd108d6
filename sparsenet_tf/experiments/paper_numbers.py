"""The accuracies that the paper's authors published, in %.

Source: `pruning_data.csv` of their repository, simonalford42/Kepner-sparse-nn; the
pictures of Alford et al., Figures 7 and 9, show them.
"""

DENSE = {
    ("mnist", "lenet_5"): 99.25,
    ("mnist", "lenet_300_100"): 97.03,
    ("cifar10", "lenet_5"): 80.14,
}

# By method and sparsity.
PRUNING = {
    ("mnist", "lenet_5"): {
        "one-time, retrained": {
            0.5: 98.95,
            0.75: 79.94,
            0.9: 89.92,
            0.95: 98.32,
            0.99: 11.35,
        },
        "iterative": {0.5: 99.17, 0.75: 98.91, 0.9: 98.84, 0.95: 98.80, 0.99: 98.48},
        "iterative, retrained": {
            0.5: 98.78,
            0.75: 69.92,
            0.9: 88.67,
            0.95: 98.54,
            0.99: 77.96,
        },
    },
    ("mnist", "lenet_300_100"): {
        "one-time, retrained": {
            0.5: 96.88,
            0.75: 96.82,
            0.9: 96.19,
            0.95: 95.65,
            0.99: 56.08,
        },
        "iterative": {0.5: 97.50, 0.75: 97.44, 0.9: 97.40, 0.95: 97.30, 0.99: 96.83},
        "iterative, retrained": {
            0.5: 97.03,
            0.75: 97.05,
            0.9: 97.02,
            0.95: 96.34,
            0.99: 96.08,
        },
    },
    ("cifar10", "lenet_5"): {"iterative": {0.5: 79.59, 0.75: 79.08, 0.9: 74.90}},
}

# Random topologies, by density with as many neurons, and by the factor of neurons.
# Of LeNet-5 with 100 times the neurons the authors had not the memory.
RANDOM = {
    ("mnist", "lenet_5"): (
        {0.01: 49.36, 0.05: 98.38, 0.1: 98.77, 0.5: 99.20},
        {2: 99.14, 10: 98.91},
    ),
    ("cifar10", "lenet_5"): (
        {0.01: 9.99, 0.05: 71.34, 0.1: 74.61, 0.5: 79.22},
        {2: 80.40, 10: 79.35},
    ),
    ("mnist", "lenet_300_100"): (
        {0.01: 74.10, 0.05: 91.49, 0.1: 93.42, 0.5: 96.28},
        {2: 96.65, 10: 94.45, 100: 94.30},
    ),
}
RADIX = {("mnist", "lenet_300_100"): ({0.1: 93.57}, {10: 93.98})}
