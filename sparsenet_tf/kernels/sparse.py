"""Products with a sparse matrix of any pattern, of which only the nonzeros exist."""

import warnings

import keras
import numpy as np
from keras import ops

from sparsenet_tf.kernels import native

IMPLEMENTATIONS = ("auto", "native", "csr", "dense")
# Of TensorFlow's products with compressed rows: above it the dense product is faster.
CSR_MOST_DENSITY = 0.025
# Of our own, for any batch; the second where the indices alone fill the caches.
NATIVE_MOST_DENSITY = (0.2, 0.15)
MANY_CONNECTIONS = 2**23


class SparseProduct:
    """`x @ W`, where W (inputs, outputs) has the connections of a pattern alone.

    "native" is our own operation for CPUs, with TensorFlow: a nonzero of W is one
    number times a row of examples side by side. The gradient of the nonzeros is
    computed for them alone, and no dense matrix exists. float32 and bfloat16, the
    latter summed in float32. "csr" is TensorFlow's product with compressed rows, for
    GPUs too. "dense" writes W out for each product and runs with every backend.

    Args:
        pattern: a `topology.SparsePattern`.

    Example:
    >>> pattern = stf.topology.SparsePattern.from_mask(np.eye(3, dtype=bool))
    >>> product = SparseProduct(pattern)
    >>> x, nonzeros = np.ones((1, 3), "float32"), np.array([1, 2, 3], "float32")
    >>> keras.ops.convert_to_numpy(product(x, nonzeros, "dense"))
    array([[1., 2., 3.]], dtype=float32)
    """

    def __init__(self, pattern):
        self.pattern = pattern
        self._indices = {}  # arrays by implementation, once it is used
        self.index_variables = None  # a `tf.Module`, if they are variables

    def let_change(self):
        """Hold the indices as variables in what is traced from now on.

        With TensorFlow only, whose functions then go on after a `change`. Those of JAX
        must be traced again, and PyTorch's know no difference.
        """
        if self.index_variables is None and keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            self.index_variables = tf.Module()
            self._indices = {}

    def change(self, pattern):
        """Multiply with another pattern, of the same sizes, from now on."""
        self.pattern = pattern
        self.let_change()
        if self.index_variables is None:
            self._indices = {}
        for implementation, variables in self._indices.items():
            arrays = _INDICES[implementation](pattern)
            for variable, array in zip(variables, arrays, strict=True):
                variable.assign(array)

    def __call__(self, x, values, implementation="auto"):
        """Return the product.

        Args:
            x: tensor (..., inputs).
            values: tensor (num_connections,) of its dtype: the nonzeros, output by
                output, by input within each.
            implementation: one of `IMPLEMENTATIONS`; "auto" as `choose` says.

        Returns:
            Tensor (..., outputs).

        Raises:
            ValueError: `implementation` is unknown, or cannot run here.
        """
        x, values = ops.convert_to_tensor(x), ops.convert_to_tensor(values)
        leading = ops.shape(x)[:-1]
        if implementation in ("native", "csr") and native.is_exporting():
            implementation = "auto"  # what is written may not be able to run these
        if implementation == "auto":
            static = None if None in x.shape[:-1] else int(np.prod(x.shape[:-1]))
            implementation = choose(self.pattern, static, x.dtype)
        flat = ops.reshape(x, (-1, self.pattern.input_size))
        y = _function(implementation, x.dtype)(self, flat, values)
        return ops.reshape(y, (*leading, self.pattern.output_size))

    def _native(self, x, values):
        return native.load_ops().sparsenet_sparse_matmul(
            x, values, *self._held("native"), transpose=False
        )

    def _csr(self, x, values):
        from tensorflow.python.ops.linalg.sparse import sparse_csr_matrix_ops as csr
        from tensorflow.sparse import SparseTensor

        (indices,) = self._held("csr")
        shape = self.pattern.output_size, self.pattern.input_size
        matrix = csr.CSRSparseMatrix(SparseTensor(indices, values, shape))
        return ops.transpose(csr.matmul(matrix, x, transpose_b=True))

    def _dense(self, x, values):
        (indices,) = self._held("dense")
        shape = self.pattern.input_size, self.pattern.output_size
        return ops.matmul(x, write_out(indices, values, shape))

    def _held(self, implementation):
        if native.is_exporting():
            # In the graph itself, as ONNX needs them, and where they change no more.
            return _INDICES[implementation](self.pattern)
        if implementation not in self._indices:
            arrays = _INDICES[implementation](self.pattern)
            if self.index_variables is not None:
                arrays = variables(*arrays)
                setattr(self.index_variables, implementation, arrays)
            elif keras.backend.backend() == "tensorflow":
                arrays = constants(*arrays)
            self._indices[implementation] = arrays
        return self._indices[implementation]


def _native_indices(pattern):
    return pattern.splits, pattern.inputs, *pattern.by_input


def _csr_indices(pattern):
    edges = np.stack([pattern.outputs(), pattern.inputs], axis=1)
    return (edges.astype(np.int64),)


def _dense_indices(pattern):
    return (np.stack([pattern.inputs, pattern.outputs()], axis=1),)


_INDICES = {"native": _native_indices, "csr": _csr_indices, "dense": _dense_indices}


def write_out(indices, values, shape):
    """The dense matrix that has `values` at `indices` and zeros elsewhere."""
    if keras.backend.backend() == "torch":
        # There Keras' `scatter` takes a step for each value.
        zeros = ops.zeros(shape, keras.backend.standardize_dtype(values.dtype))
        return ops.scatter_update(zeros, indices, values)
    return ops.scatter(indices, values, shape)


def choose(pattern, batch, dtype):
    """Return the implementation that is the fastest for a forward and backward pass.

    Measured on two cores (`benchmarks/sparse.py`), by density and batch.

    Args:
        pattern: a `topology.SparsePattern`.
        batch: number of examples, or None if it is not known.
        dtype: of the inputs.

    Example:
    >>> choose(stf.topology.SparsePattern.random(64, 64, 60, seed=0), 32, "float32")
    'dense'
    """
    if native_can_run(dtype):
        return "native" if native_pays(pattern, batch) else "dense"
    if (
        keras.backend.backend() == "tensorflow"
        and keras.backend.standardize_dtype(dtype) in ("float32", "float64")
        and 0 < pattern.density <= CSR_MOST_DENSITY
        and not native.is_converting()
    ):
        return "csr"
    return "dense"


def warn_without_native():
    """Warn if our operation could run here but has not been built."""
    if keras.backend.backend() != "tensorflow" or native.load_ops() is not None:
        return
    if native.has_only_cpus():
        warnings.warn(
            "Our own operations are not built for this TensorFlow in the package "
            f"{native.package_folder()}, so sparse layers use TensorFlow's products, "
            "which are slower. `python -m sparsenet_tf.kernels.native.build` builds "
            "them, in a few minutes, where there is a C++ compiler; it says for which "
            "packages it has.",
            stacklevel=2,
        )


def native_can_run(dtype="float32"):
    """Whether our operation exists here, for the dtype and for all devices."""
    known = keras.backend.standardize_dtype(dtype) in ("float32", "bfloat16")
    if not known or native.load_ops() is None:
        return False
    return native.has_only_cpus()


def require_native(dtype):
    """Raise a ValueError if our operation cannot run here."""
    if not native_can_run(dtype):
        raise ValueError(
            "`implementation` 'native' needs float32 or bfloat16, the TensorFlow "
            "backend without a GPU, and the operations that `python -m "
            f"sparsenet_tf.kernels.native.build` builds. Received: dtype "
            f"{keras.backend.standardize_dtype(dtype)}, backend "
            f"{keras.backend.backend()}"
        )


def supports_jit(implementation):
    """Whether XLA can compile whatever the implementation comes to here."""
    chooses_dense = keras.backend.backend() != "tensorflow"
    return implementation == "dense" or (implementation == "auto" and chooses_dense)


def native_pays(pattern, batch):
    """Whether our operation is expected to be faster than the dense product."""
    many = pattern.num_connections > MANY_CONNECTIONS and (batch or 128) > 64
    return pattern.density <= NATIVE_MOST_DENSITY[many]


def check_implementation(implementation, known=IMPLEMENTATIONS):
    """Return `implementation`, or raise a ValueError if it is not one of `known`."""
    if implementation not in known:
        raise ValueError(
            f"`implementation` must be one of {known}. Received: {implementation!r}"
        )
    return implementation


def _function(implementation, dtype):
    check_implementation(implementation)
    if implementation == "native":
        require_native(dtype)
    if implementation == "csr" and keras.backend.backend() != "tensorflow":
        raise ValueError(
            "`implementation` 'csr' needs the TensorFlow backend. Received: backend "
            f"{keras.backend.backend()}"
        )
    return {
        "native": SparseProduct._native,
        "csr": SparseProduct._csr,
        "dense": SparseProduct._dense,
    }[implementation]


def constants(*arrays):
    """TensorFlow tensors that any function may use, and that none copies."""
    import tensorflow as tf

    with tf.init_scope():
        return [tf.constant(array) for array in arrays]


def variables(*arrays):
    """TensorFlow variables that any function may use, also one that is being traced."""
    import tensorflow as tf
    from tensorflow.python.ops.resource_variable_ops import ResourceVariable

    # A function in whose trace there is a new `tf.Variable` is traced twice, or refused
    # if it is not the first trace.
    with tf.init_scope():
        return [ResourceVariable(array, trainable=False) for array in arrays]
