"""`export`: files for inference, and how small they can be."""

import contextlib
import dataclasses
import gzip
import importlib.util
import io
import math
import pathlib
import tempfile

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.copying import is_copyable, sparse_kernels
from sparsenet_tf.layers.masked import masked_kernels
from sparsenet_tf.topology.checks import check_path, shown
from sparsenet_tf.transform.compact import (
    compact_arrays,
    dense_arrays,
    dense_shapes,
)
from sparsenet_tf.transform.masks import write_npz
from sparsenet_tf.transform.strip import plain_copy
from sparsenet_tf.transform.summary import check_print
from sparsenet_tf.transform.whole_files import made_beside

# What a path ends in, and what Keras calls the format.
FORMATS = {
    "saved_model": ("", "tf_saved_model"),
    "keras": (".keras", None),
    "tflite": (".tflite", "litert"),
    "onnx": (".onnx", "onnx"),
    "npz": (".npz", None),
}
# Bytes of dense weights up to which they are compressed to see their size.
GZIP_MOST = 2**30

# Keras 3.12 and earlier do not, and it is the last for Python 3.10.
_KERAS_WRITES_TFLITE = importlib.util.find_spec("keras.src.export.litert") is not None

# TensorFlow's, of a full disk, a file that may not be longer, and the like.
_FILE_ERRORS = {
    "DataLossError",
    "NotFoundError",
    "OutOfRangeError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "UnknownError",
}


@dataclasses.dataclass(frozen=True)
class ExportSizes:
    """Sizes in bytes.

    Attributes:
        path: what was written.
        written: its size on disk.
        dense: all weights of the model in dense form.
        gzip: the same, compressed by gzip; None if they are more than `GZIP_MOST`.
        compact: the weights as the compact `.npz` file has them, nonzeros alone.
    """

    path: pathlib.Path
    written: int
    dense: int
    gzip: int | None
    compact: int

    def __str__(self):
        gzipped = "not tried" if self.gzip is None else f"{self.gzip:,}"
        return (
            f"{self.path}: {self.written:,} bytes\n"
            f"weights: dense {self.dense:,}, gzip {gzipped}, "
            f"compact {self.compact:,} bytes"
        )


def export(model, path, format=None, print_fn=print, **options):
    """Write the model for inference, in plain dense form or as its nonzeros.

    Masks and sparse layers are gone from what is written, as after `strip`: nothing of
    this package is needed to run it. The model itself is left as it is.

    By `format`, what is written is

    - "saved_model": TensorFlow's SavedModel, a folder; "tf_saved_model" too;
    - "keras": a `.keras` file for `keras.models.load_model`, not compiled;
    - "tflite": a `.tflite` file, by TensorFlow's converter; "litert" too;
    - "onnx": a `.onnx` file, by Keras, which needs the packages onnx and tf2onnx;
    - "npz": a compact file of nonzeros, for `stf.transform.load_compact`.

    Args:
        model: a built `keras.Model`. A subclassed one must be plain already, since
            only Sequential and functional models can be copied.
        path: file or folder to write, whole or not at all; its parent must exist. A
            file must end as its format's do. One that is there is replaced, but no
            folder other than a SavedModel.
        format: see above. By default the suffix of `path` decides: none for a
            SavedModel, or ".keras", ".tflite", ".onnx" or ".npz".
        print_fn: function that is given the sizes as text; None for silence.
        **options: for `keras.Model.export`, such as `input_signature`.

    Returns:
        `ExportSizes`.

    Raises:
        TypeError: `model` is no Keras model, or an argument has another type.
        ValueError: it is not built or is subclassed with masks, `format` or the
            suffix of `path` is unknown or of another format, or `path` is a folder of
            something else.
        ImportError: "onnx" without the packages that it needs.
        OSError: it cannot be written.

    Example:
    >>> import tempfile, os
    >>> model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(100)])
    >>> pruned = stf.pruning.prune_one_shot(model, 0.95)
    >>> path = os.path.join(tempfile.mkdtemp(), "model.npz")
    >>> sizes = export(pruned, path, print_fn=None)
    >>> sizes.dense, sizes.compact < sizes.gzip < sizes.dense
    (314000, True)
    """
    tree.check_model(model)
    if not model.built:
        raise ValueError(f"`model` must be built. Received: {model.name!r}, not built")
    path = check_path(path)
    check_print(print_fn)
    format = _check_format(format, path)
    if options and format in ("keras", "npz"):
        raise TypeError(
            f"`options` are for formats that Keras exports, not {format!r}. Received: "
            f"{sorted(options)}"
        )
    if not is_copyable(model) and (masked_kernels(model) or sparse_kernels(model)):
        raise ValueError(
            f"`model` must be Sequential or functional, or plain. Received: "
            f"{type(model).__name__} {model.name!r} with masks or sparse layers; "
            "`strip` makes it plain, in place"
        )
    arrays, compact = compact_arrays(model), io.BytesIO()
    write_npz(compact, arrays)
    with made_beside(path) as made:
        if format == "npz":
            made.write_bytes(compact.getvalue())
        elif format == "keras":
            _plain(model).save(made)
        else:
            plain = _plain(model)
            if format == "onnx":  # for which Keras wants it to have been called
                plain(plain.inputs[0] if len(plain.inputs) == 1 else plain.inputs)
            with _os_errors(path):
                if format == "tflite" and not _KERAS_WRITES_TFLITE:
                    made.write_bytes(_tflite(plain, **options))
                else:
                    options["format"] = FORMATS[format][1]
                    plain.export(str(made), verbose=False, **options)
    sizes = _sizes(path, arrays, compact.tell())
    if print_fn is not None:
        print_fn(str(sizes))
    return sizes


@contextlib.contextmanager
def _os_errors(path):
    """A context in which what TensorFlow says of files becomes an OSError."""
    try:
        yield
    except Exception as error:
        # By name: with other backends TensorFlow may not be there.
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if not ("OpError" in kinds and kinds & _FILE_ERRORS):
            raise
        raise OSError(
            f"`path` cannot be written. Received: {path} ({error})"
        ) from error


def _tflite(model, input_signature=None, **options):
    """The bytes of a `.tflite` file, made as later Keras makes them."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False, input_signature=input_signature)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS,
            tf.lite.OpsSet.SELECT_TF_OPS,
        ]
        for name, value in options.items():
            if not hasattr(converter, name):
                raise ValueError(
                    "`options` must be attributes of a tf.lite.TFLiteConverter. "
                    f"Received: {name!r}"
                )
            setattr(converter, name, value)
        return converter.convert()


def _check_format(format, path):
    names = {keras_name: name for name, (_, keras_name) in FORMATS.items()}
    ends = {end: name for name, (end, _) in FORMATS.items()}
    if format is None:
        if path.suffix not in ends:
            raise ValueError(
                f"`path` must end in one of {[*filter(None, ends)]}, or have no suffix "
                "for a SavedModel, which is a folder; `format` says what to write "
                f"whatever the suffix is. Received: {str(path)!r}"
            )
        format = ends[path.suffix]
    format = names.get(format, format) if isinstance(format, str) else format
    if not isinstance(format, str) or format not in FORMATS:
        raise ValueError(
            f"`format` must be one of {tuple(FORMATS)}. Received: {shown(format)}"
        )
    end = FORMATS[format][0]
    if path.suffix != end and (end or path.suffix in ends):
        raise ValueError(
            f"`path` must {'end in ' + repr(end) if end else 'have no suffix'} for "
            f"format {format!r}. Received: {str(path)!r}"
        )
    if path.is_dir() and (end or not (path / "saved_model.pb").is_file()):
        raise ValueError(
            f"`path` must not be a folder of something else. Received: {str(path)!r}"
        )
    return format


def _plain(model):
    if not is_copyable(model):
        return model
    # Who loads it need not have its loss and metrics.
    return plain_copy(model, compiled=False)


def _sizes(path, arrays, compact):
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    shapes = dense_shapes(arrays)
    dense = sum(math.prod(shape) * itemsize for shape, itemsize in shapes)
    gzipped = None
    if dense <= GZIP_MOST:
        gzipped = io.BytesIO()
        with gzip.GzipFile(fileobj=gzipped, mode="wb", compresslevel=6) as file:
            for array in dense_arrays(arrays):
                file.write(array.tobytes())
    return ExportSizes(
        path=path,
        written=sum(file.stat().st_size for file in files if file.is_file()),
        dense=dense,
        gzip=None if gzipped is None else gzipped.tell(),
        compact=compact,
    )
