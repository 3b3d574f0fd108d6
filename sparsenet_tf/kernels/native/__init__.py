"""Our own TensorFlow operations for the CPU, where they have been built."""

import functools
import pathlib
import sys

import keras

# Modules that trace a model in order to write it: for formats other than TensorFlow's
# own, and of all formats.
_CONVERTERS = (
    "keras.src.export.litert",
    "keras.src.export.onnx",
    "keras.src.export.openvino",
    "tensorflow.lite.python",
    "tf2onnx",
)
_EXPORTERS = ("keras.src.export", "tensorflow.python.saved_model.save", *_CONVERTERS)


def load_ops():
    """Return the module of operations, or None where they cannot be used.

    They can be with Keras' TensorFlow backend, once `python -m
    sparsenet_tf.kernels.native.build` has built them against the TensorFlow that is
    installed, as `make` does. They run on the CPU only and XLA does not know them.
    What is exported never has them (see `is_exporting`).
    """
    if keras.backend.backend() != "tensorflow" or is_exporting():
        return None
    import tensorflow as tf

    path = library_path(tf.__version__)
    return _load(str(path)) if path.exists() else None


@functools.cache  # TensorFlow refuses to be told of a gradient twice.
def _load(path):
    import tensorflow as tf

    ops = tf.load_op_library(path)

    def mask_upstream(op, upstream):
        mask = op.inputs[1]
        return ops.sparsenet_mask_gradient(gradient=upstream, mask=mask), None

    tf.RegisterGradient("SparsenetMaskGradient")(mask_upstream)
    tf.RegisterGradient("SparsenetMaskedIdentity")(mask_upstream)
    tf.RegisterGradient("SparsenetSparseMatmul")(_sparse_matmul_gradient(ops))
    tf.RegisterGradient("SparsenetSampledMatmul")(_sampled_matmul_gradient(ops))
    for name, gradient in _conv_gradients(ops).items():
        tf.RegisterGradient(name)(gradient)
    return ops


def _sparse_matmul_gradient(ops):
    def gradient(op, upstream):
        x, values, *pattern = op.inputs
        transpose = op.get_attr("transpose")
        to_x = ops.sparsenet_sparse_matmul(
            upstream, values, *pattern, transpose=not transpose
        )
        left, right = (upstream, x) if transpose else (x, upstream)
        to_values = ops.sparsenet_sampled_matmul(left, right, *pattern)
        return to_x, to_values, *[None] * len(pattern)

    return gradient


def _sampled_matmul_gradient(ops):
    def gradient(op, upstream):
        x, y, *pattern = op.inputs
        matmul = ops.sparsenet_sparse_matmul
        to_x = matmul(y, upstream, *pattern, transpose=True)
        to_y = matmul(x, upstream, *pattern, transpose=False)
        return to_x, to_y, *[None] * len(pattern)

    return gradient


def _conv_gradients(ops):
    import tensorflow as tf

    def settings(op):
        names = ("kernel_size", "strides", "dilations", "padding")
        return {name: op.get_attr(name) for name in names}

    def of_conv(op, upstream):
        x, values, *pattern = op.inputs
        to_x = ops.sparsenet_sparse_conv_input(
            upstream, values, tf.shape(x)[1:3], *pattern, **settings(op)
        )
        to_values = ops.sparsenet_sparse_conv_values(
            x, upstream, *pattern, **settings(op)
        )
        return to_x, to_values, *[None] * len(pattern)

    def of_input(op, upstream):
        y, values, _, *pattern = op.inputs
        to_y = ops.sparsenet_sparse_conv(upstream, values, *pattern, **settings(op))
        to_values = ops.sparsenet_sparse_conv_values(
            upstream, y, *pattern, **settings(op)
        )
        return to_y, to_values, None, *[None] * len(pattern)

    def of_values(op, upstream):
        x, y, *pattern = op.inputs
        to_x = ops.sparsenet_sparse_conv_input(
            y, upstream, tf.shape(x)[1:3], *pattern, **settings(op)
        )
        to_y = ops.sparsenet_sparse_conv(x, upstream, *pattern, **settings(op))
        return to_x, to_y, *[None] * len(pattern)

    return {
        "SparsenetSparseConv": of_conv,
        "SparsenetSparseConvInput": of_input,
        "SparsenetSparseConvValues": of_values,
    }


def is_exporting():
    """Whether a graph is being traced that will run without this package.

    True inside `model.export`, `keras.export.ExportArchive`, `tf.saved_model.save` and
    `tf.lite.TFLiteConverter.from_keras_model`. All of them trace a `tf.function` anew,
    even one that was called before; a concrete function that the user made before the
    export stays as it was traced, with our operations.

    Example:
    >>> is_exporting()
    False
    """
    return _is_traced_by(_EXPORTERS)


def is_converting():
    """Whether it will run on TFLite, ONNX or OpenVINO, which lack some operations."""
    return _is_traced_by(_CONVERTERS)


def _is_traced_by(modules):
    # TensorFlow and Keras do not say what they trace a function for, so the stack is
    # searched for them; only while tracing, so that a step that runs costs nothing.
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    frame = None if tf.executing_eagerly() else sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(modules):
            return True
        frame = frame.f_back
    return False


def has_only_cpus():
    """Whether TensorFlow would place everything on the CPU."""
    import tensorflow as tf

    return all(
        device.device_type == "CPU" for device in tf.config.list_physical_devices()
    )


def package_folder():
    """Where the package is that is imported here: a clone, or an installed copy.

    >>> (package_folder() / "layers").is_dir()
    True
    """
    return pathlib.Path(__file__).resolve().parents[2]


def library_path(tensorflow_version):
    """Where the library for that version is: each needs one of its own."""
    return pathlib.Path(__file__).with_name(f"_ops_tf{tensorflow_version}.so")
