"""How much of each kernel to prune: a sparsity, spread over kernels by a scope."""

from collections.abc import Mapping

from sparsenet_tf.layers import tree
from sparsenet_tf.topology import allocate
from sparsenet_tf.topology.checks import shown
from sparsenet_tf.topology.selection import check_sparsity

SCOPES = ("layer", "global", "erdos_renyi", "erk")


def groups(scope, shapes, sparsity, final_sparsity=None):
    """Return which kernels to rank together, and the share to prune of each group.

    Args:
        scope: "layer", that share of each kernel; "global", of all ranked together;
            "erdos_renyi" or "erk", the overall share as `stf.topology.allocate`
            spreads it; or a dict `{layer name: sparsity}` of layers that end at a
            sparsity of their own, while all others take the overall share.
        shapes: dict `{path: shape}`.
        sparsity: the overall share to prune now.
        final_sparsity: the one that a schedule ends with, of which a dict's
            sparsities take the same part as `sparsity` does. None: `sparsity`.

    Returns:
        List of `(paths, sparsity)`.

    Example:
    >>> groups({"head": 0.5}, {"a/kernel": (9, 9), "head/kernel": (9, 2)}, 0.45, 0.9)
    [(['a/kernel'], 0.45), (['head/kernel'], 0.25)]
    """
    if isinstance(scope, Mapping):
        part = sparsity / final_sparsity if final_sparsity else 1.0
        return [([p], _own(scope, p, part, sparsity)) for p in shapes]
    if scope == "global":
        return [(list(shapes), sparsity)]
    if scope == "layer":
        return [([path], sparsity) for path in shapes]
    shares = allocate(shapes, sparsity, scope)
    return [([path], share) for path, share in shares.items()]


def _own(scope, path, part, overall):
    # The most specific name counts, where a layer is inside another that is named.
    named = [name for name in scope if tree.matches(path, [name])]
    return scope[max(named, key=len)] * part if named else overall


def check_scope(scope, model=None):
    """Return `scope`, checked; with a model also the names in a dict.

    Raises:
        TypeError: a sparsity in a dict is no number, or a key no name.
        ValueError: it is unknown, a sparsity is outside [0, 1), or a dict names a
            layer that the model does not have.
    """
    if isinstance(scope, Mapping):
        tree.as_names(scope, "scope")
        for name, sparsity in scope.items():
            check_sparsity(sparsity, f"scope[{name!r}]")
        if model is not None:
            tree.check_names(model, tuple(scope), "scope")
        return dict(scope)
    if not isinstance(scope, str) or scope not in SCOPES:
        raise ValueError(
            f"`scope` must be one of {SCOPES}, or a dict from layer names to "
            f"sparsities. Received: {shown(scope)}"
        )
    return scope
