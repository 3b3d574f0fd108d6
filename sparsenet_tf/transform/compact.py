"""The compact file of a model: its nonzeros, where they are, and all other weights."""

import numpy as np
from keras import ops

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.copying import plain_weights, sparse_kernels
from sparsenet_tf.layers.masked import masked_kernels
from sparsenet_tf.layers.nonzero_dense import NonzeroDense
from sparsenet_tf.layers.nonzero_weights import connections
from sparsenet_tf.topology.checks import check_path
from sparsenet_tf.transform.quantized import ZeroPoints, quantized_kernels

_VALUES, _GAPS, _SHAPE = ".values", ".gaps", ".shape"
_ZEROS, _GROUPS, _AXES = ".zeros", ".groups", ".axes"
_NOT_VALUES = (_GAPS, _SHAPE, _ZEROS, _GROUPS, _AXES)
# What more arrays in the file take: their headers, and what the archive says of them.
_OVERHEAD = 1024


def compact_arrays(model):
    """Return what the file holds, `{name: array}`, in the order of the plain weights.

    A kernel that is masked or stored as nonzeros is three arrays: the values that are
    not zero, how far each is from the one before it in the flattened dense kernel (the
    first from place -1, in the smallest unsigned integers that do), and the shape. No
    dense kernel of a `SparseDense` or `RadixDense` is made. Any other kernel is stored
    in this way where that is smaller, also one that Keras has quantized; of int4 the
    bytes of two weights each are. Where its zero is not the integer 0, the bytes are
    compared (by exclusive or) with those of a kernel of zeros, which three more arrays
    describe. Other weights are whole.

    Args:
        model: a built `keras.Model`.
    """
    sparse = sparse_kernels(model)
    masked = {id(masked.kernel) for masked in masked_kernels(model).values()}
    quantized = {id(k.variable): k for k in quantized_kernels(model).values()}
    kernels = {id(kernel) for kernel in tree.kernels(model).values()}
    arrays = {}
    for variable in plain_weights(model):
        name = _unused(variable.path, arrays)
        value = _as_numpy(variable)
        if id(variable) in sparse:
            layer = sparse[id(variable)]
            places, values = _places(layer, value)
            arrays.update(_nonzeros(name, places, values, layer.dense_shape))
        elif id(variable) in masked:
            places = np.flatnonzero(value)
            values = value.reshape(-1)[places]
            arrays.update(_nonzeros(name, places, values, value.shape))
        elif id(variable) in quantized:
            zero_points = quantized[id(variable)].zero_points
            arrays.update(_smaller(name, value, zero_points))
        elif id(variable) in kernels:
            arrays.update(_smaller(name, value))
        else:
            arrays[name] = value
    return arrays


def load_compact(path):
    """Return the dense weights of a compact file that `export` wrote.

    They are in the order of the plain model's weights, so that `strip(model)`, or a
    model of the same architecture that was never sparse, takes them by
    `set_weights(list(load_compact(path).values()))`. Weights of a model that Keras has
    quantized are integers, for a model that is quantized in the same way.

    Args:
        path: the `.npz` file.

    Returns:
        Dict from names to arrays.

    Raises:
        TypeError: `path` is no path.
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or something else. Nothing in it is unpickled.

    Example:
    >>> import tempfile, os
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model = stf.pruning.prune_one_shot(model, 0.75)
    >>> path = os.path.join(tempfile.mkdtemp(), "model.npz")
    >>> sizes = stf.export(model, path, print_fn=None)
    >>> plain = stf.strip(model)
    >>> plain.set_weights(list(load_compact(path).values()))
    """
    path = check_path(path)
    try:
        # np.load leaves a file open that it cannot read.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(_dense_items(dict(archive)))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"`path` must be a file. Received: {str(path)!r}"
        ) from error
    # Damage can surface as nearly anything in the readers of zip and of headers.
    except Exception as error:
        raise ValueError(
            "`path` must be a compact file written by `export`. Received: "
            f"{str(path)!r}, which is damaged or something else ({error})"
        ) from error


def _as_numpy(variable):
    """The value as NumPy knows it: bfloat16 as float32, which holds all of it."""
    value = ops.convert_to_numpy(ops.convert_to_tensor(variable))
    return value.astype(np.float32) if value.dtype.kind == "V" else value


def _places(layer, values):
    """Places in the flattened dense kernel, rising, and their values; no zeros."""
    if not isinstance(layer, NonzeroDense):
        dense = layer.dense_of(values).reshape(-1)
        places = np.flatnonzero(dense)
        return places, dense[places]
    inputs, outputs = (a.reshape(-1) for a in connections(layer.connections))
    values = values.reshape(-1)
    places = inputs.astype(np.int64) * layer.dense_shape[-1] + outputs
    order = np.argsort(places)
    order = order[values[order] != 0]
    return places[order], values[order]


def _nonzeros(name, places, values, shape):
    gaps = np.diff(places, prepend=-1)
    most = int(gaps.max(initial=0))
    return {
        name + _VALUES: values,
        name + _GAPS: gaps.astype(np.min_scalar_type(most)),
        name + _SHAPE: np.array(shape, np.int64),
    }


def _smaller(name, value, zero_points=None):
    """A kernel as its nonzeros, or whole if that is smaller."""
    extra, differs = {}, value
    if zero_points is not None:
        differs = value ^ zero_points.stored()
        groups = zero_points.groups
        extra = {
            name + _ZEROS: zero_points.zeros,
            name + _GROUPS: groups.astype(np.min_scalar_type(int(groups.max()))),
            name + _AXES: np.array([zero_points.axis, zero_points.packed_axis], "i1"),
        }
    alive = differs != 0
    if value.dtype.kind == "f":
        alive |= np.signbit(value)  # a negative zero is no mask's
    places = np.flatnonzero(alive)
    values = differs.reshape(-1)[places]
    found = {**_nonzeros(name, places, values, value.shape), **extra}
    size = sum(array.nbytes for array in found.values()) + _OVERHEAD
    return found if size < value.nbytes else {name: value}


def dense_arrays(arrays):
    """Yield each weight in dense form, one after the other."""
    return (array for _, array in _dense_items(arrays))


def dense_shapes(arrays):
    """Yield the shape of each dense weight, and how many bytes an entry has."""
    for name, array in arrays.items():
        if name.endswith(_VALUES):
            shape = arrays[name.removesuffix(_VALUES) + _SHAPE].tolist()
            yield tuple(shape), array.itemsize
        elif not name.endswith(_NOT_VALUES):
            yield array.shape, array.itemsize


def _dense_items(arrays):
    for name, array in arrays.items():
        if name.endswith(_VALUES):
            name = name.removesuffix(_VALUES)
            dense = np.zeros(arrays[name + _SHAPE], array.dtype)
            places = np.cumsum(arrays[name + _GAPS], dtype=np.int64) - 1
            if places.size and not 0 <= places[0] <= places[-1] < dense.size:
                raise ValueError(f"places of {name!r} are out of range")
            dense.reshape(-1)[places] = array
            if name + _ZEROS in arrays:
                axis, packed_axis = arrays[name + _AXES].tolist()
                zeros, groups = arrays[name + _ZEROS], arrays[name + _GROUPS]
                dense ^= ZeroPoints(zeros, groups, axis, packed_axis).stored()
            yield name, dense
        elif not name.endswith(_NOT_VALUES):
            yield name, array


def _unused(name, arrays):
    candidate, count = name, 0
    while candidate in arrays or candidate + _VALUES in arrays:
        count += 1
        candidate = f"{name}_{count}"
    return candidate
