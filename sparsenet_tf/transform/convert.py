"""`to_sparse` and `to_dense`: masked layers to layers of nonzeros, and back."""

from sparsenet_tf.kernels import sparse, sparse_conv
from sparsenet_tf.layers import tree
from sparsenet_tf.layers.copying import clone_layer
from sparsenet_tf.layers.masked import Masked
from sparsenet_tf.layers.radix_dense import RadixDense
from sparsenet_tf.layers.replace import replace_layers
from sparsenet_tf.layers.sparse_conv import SparseConv2D
from sparsenet_tf.layers.sparse_form import sparse_form
from sparsenet_tf.topology.checks import check_flag, check_integer, shown
from sparsenet_tf.transform.optimizer_state import OptimizerState

# RadixDense computes with blocks that hold the nonzeros of several rows.
RADIX_MOST_DENSITY = 0.125


def to_sparse(model, layers="auto", batch_size=None, optimizer_state=False):
    """Return the model with masked layers as layers that hold only their nonzeros.

    A Dense layer whose mask is a RadiX layer becomes a `RadixDense`, any other a
    `SparseDense`, and a Conv2D a `SparseConv2D`. Layers of other classes stay masked.
    Predictions and training go on as before, but for the rounding of sums. A Sequential
    or functional model is copied; a subclassed model is changed in place.

    Args:
        model: a built `keras.Model` with `Masked` layers.
        layers: "auto" for those whose sparse form is expected to be faster here, by
            what `benchmarks/sparse.py` measured; "all"; or a number, for those of at
            most this density.
        batch_size: that "auto" is to expect; by default some hundred.
        optimizer_state: whether the optimizer's slots and its step count are carried
            over. By default the copy has a fresh optimizer.

    Returns:
        The model, compiled as it was.

    Raises:
        TypeError: `model` is no Keras model, or an argument has another type.
        ValueError: it is not built, `layers` is something else, or the optimizer's
            state cannot be carried over.

    Example:
    >>> model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(300)])
    >>> masked = stf.pruning.prune_one_shot(model, 0.95)
    >>> new = stf.to_sparse(masked, layers="all")
    >>> type(new.layers[0]).__name__, tuple(new.layers[0].kernel.shape)
    ('SparseDense', (11760,))
    """
    _check(model)
    if not any(tree.is_masked(p) or tree.is_sparse(p) for _, p in tree.walk(model)):
        raise ValueError(
            f"`model` must have masked layers. Received: model {model.name!r} without "
            "any; `prune_one_shot(model, sparsity)` prunes it, and `sparsify(model, "
            'masks="zeros")` takes the zeros that it has'
        )
    most = _most_density(layers)
    if batch_size is not None:
        check_integer(batch_size, "batch_size", 1)

    def pays(layer, kind, connections):
        """Whether the layer is expected to be faster as one of that class."""
        if kind is RadixDense:
            return connections.density <= RADIX_MOST_DENSITY
        if not sparse.native_can_run(layer.layer.compute_dtype):
            return False
        if kind is SparseConv2D:
            channels = layer.layer.kernel.shape[-2] * layer.layer.groups
            return sparse_conv.native_pays(connections, channels)
        return sparse.native_pays(connections, batch_size)

    def convert(layer):
        if not tree.is_masked(layer) or list(layer.masks) != ["kernel"]:
            return None
        form = sparse_form(layer.layer, layer.masks["kernel"])
        if form is None:
            return None
        kind, found = form
        wanted = found.density <= most if most is not None else pays(layer, *form)
        if not wanted:
            return None
        return (
            lambda: kind.like(layer.layer, found),
            lambda: kind.from_dense(layer, found),
        )

    return _convert(model, convert, optimizer_state)


def to_dense(model, optimizer_state=False):
    """Return the model with layers that hold only nonzeros as masked dense layers.

    The inverse of `to_sparse`. For plain dense layers without masks, see `strip`.

    Args:
        model: a built `keras.Model`.
        optimizer_state: as for `to_sparse`.

    Returns:
        The model, compiled as it was.

    Raises:
        TypeError, ValueError: as `to_sparse`.

    Example:
    >>> mask = np.eye(4, dtype=bool)
    >>> layer = stf.layers.SparseDense(mask)
    >>> model = keras.Sequential([keras.Input((4,)), layer])
    >>> int(stf.to_dense(model).layers[0].masks["kernel"].sum())
    4
    """
    _check(model)

    def convert(layer):
        if not tree.is_sparse(layer):
            return None
        return (
            lambda: Masked(layer.like_dense(), layer.dense_mask()),
            lambda: Masked(layer.to_dense(), layer.dense_mask()),
        )

    return _convert(model, convert, optimizer_state)


def _convert(model, convert, optimizer_state):
    """Exchange layers, and carry the optimizer's state over if that is asked for.

    `convert` is a function of a layer that returns None, to keep it, or two functions:
    one makes the new layer unbuilt, the other with its weights.
    """
    check_flag(optimizer_state, "optimizer_state")
    state = OptimizerState(model) if optimizer_state else None

    def clone(path, layer):
        made = convert(layer)
        new = clone_layer(path, layer) if made is None else made[0]()
        new.name = layer.name
        return new

    def replace(path, layer):
        # Layers of a copy are not built yet, and have been exchanged by `clone`.
        made = convert(layer) if layer.built else None
        if made is None:
            return layer
        new = made[1]()
        new.name = layer.name
        return new

    new = replace_layers(model, replace, clone)
    if state is not None:
        state.restore(new)
    return new


def _most_density(layers):
    """None for "auto", or the density up to which layers are converted."""
    if isinstance(layers, str) and layers in ("auto", "all"):
        return None if layers == "auto" else 1.0
    is_number = isinstance(layers, (int, float)) and not isinstance(layers, bool)
    if is_number and 0 <= layers <= 1:
        return float(layers)
    raise ValueError(
        "`layers` must be 'auto', 'all' or a density from 0 to 1. "
        f"Received: {shown(layers)}"
    )


def _check(model):
    tree.check_model(model)
    if not model.built:
        raise ValueError(f"`model` must be built. Received: {model.name!r}, not built")
