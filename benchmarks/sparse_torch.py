"""PyTorch's side of sparse.py: times its products when it is asked to.

It reads a request a line and answers each with one: first the variants that can run
here, then for {"path", "batch", "variants"} that the layers are made, and for
{"variant", "what"} the milliseconds of one call.
"""

import json
import os
import sys
import time

import numpy as np
import torch

try:
    from sparseprop.modules import SparseLinear
except ImportError:
    SparseLinear = None

sys.stdout, answers = sys.stderr, sys.stdout


def answer(value):
    print(json.dumps(value), file=answers, flush=True)


class Csr:
    """PyTorch's product with compressed rows, W transposed."""

    def __init__(self, splits, inputs, width):
        values = torch.randn(len(inputs))
        self.matrix = torch.sparse_csr_tensor(
            torch.tensor(splits), torch.tensor(inputs), values, (width, width)
        ).requires_grad_()

    def __call__(self, x):
        return (self.matrix @ x.T).T

    def clear(self):
        self.matrix.grad = None


class SparseProp:
    def __init__(self, splits, inputs, width):
        weight = torch.zeros(width, width)
        rows = np.repeat(np.arange(width), np.diff(splits))
        weight[torch.tensor(rows), torch.tensor(inputs).long()] = torch.randn(
            len(inputs)
        )
        self.layer = SparseLinear(weight)

    def __call__(self, x):
        return self.layer(x)

    def clear(self):
        self.layer.W_val.grad = None


VARIANTS = {"torch CSR": Csr, **({"sparseprop": SparseProp} if SparseLinear else {})}


def call(layer, what, x, upstream):
    layer.clear()
    x.grad = None
    begin = time.perf_counter()
    if what == "forward":
        with torch.no_grad():
            layer(x)
    else:
        layer(x).backward(upstream)
    return 1e3 * (time.perf_counter() - begin)


def main():
    torch.set_num_threads(os.cpu_count())
    answer(list(VARIANTS))
    layers = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "path" in request:
            arrays = np.load(request["path"])
            splits, inputs = arrays["splits"], arrays["inputs"]
            width = len(splits) - 1
            layers = {
                v: VARIANTS[v](splits, inputs, width) for v in request["variants"]
            }
            x = torch.randn(request["batch"], width, requires_grad=True)
            upstream = torch.randn(request["batch"], width)
            answer("ready")
        else:
            arguments = layers[request["variant"]], request["what"], x, upstream
            call(*arguments)  # wakes the threads
            answer(call(*arguments))


if __name__ == "__main__":
    main()
