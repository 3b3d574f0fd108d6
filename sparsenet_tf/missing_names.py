"""What to say of a name that `sparsenet_tf` itself does not have."""

import ast
import difflib
import importlib.util
import pathlib
import types

# Names of tensorflow-model-optimization that are called otherwise here.
_OF_TFMOT = {
    "prune_low_magnitude": "`sparsify(model)`, with a schedule in a `PruningCallback`",
    "strip_pruning": "`strip(model)`",
    "prune_scope": "not needed: `keras.models.load_model` loads sparsified models",
    "UpdatePruningStep": "`PruningCallback(schedule)`",
    "PruningSummaries": "`SparsityLogger(log_dir)`",
    "PruningSchedule": "`PolynomialDecay`, `ConstantSparsity`, or any object like them",
    "PruningPolicy": "`exclude` of `sparsify` and `PruningCallback`",
    "PruneForLatencyOnXNNPack": "`exclude` of `sparsify` and `PruningCallback`",
    "PrunableLayer": "a method `get_prunable_weights` of any layer",
}


def explain(package, name):
    """Return the message of the AttributeError for `package.name`.

    Args:
        package: the module `sparsenet_tf`.
        name: what was asked for.

    Example:
    >>> print(explain(stf, "RigL"))
    module 'sparsenet_tf' has no attribute 'RigL': it is `sparsenet_tf.pruning.RigL`
    >>> print(explain(stf, "sparsfy"))
    module 'sparsenet_tf' has no attribute 'sparsfy'. Did you mean `sparsenet_tf.sparsify`?
    """  # noqa: E501
    message = f"module {package.__name__!r} has no attribute {name!r}"
    if name.startswith("_"):
        return message
    if name in _OF_TFMOT:
        return (
            f"{message}, a name of tensorflow-model-optimization. Here it is "
            f"{_OF_TFMOT[name]}; see the guide docs/migrate-from-tfmot.md"
        )
    places = _places(package)
    if name in places:
        return f"{message}: it is `{places[name]}`"
    lower = {known.lower(): known for known in places}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.75)
    if close:
        return f"{message}. Did you mean `{places[lower[close[0]]]}`?"
    return message


def _places(package):
    """`{name: full name}` of all that is public, the shortest full names."""
    modules, places = [package], {}
    while modules:
        module = modules.pop(0)
        for name in dir(module):
            # Asked of the module's dict: some are imported when they are asked for.
            value = vars(module).get(name)
            if name.startswith("_") or name in places:
                continue
            if not isinstance(value, types.ModuleType):
                places[name] = f"{module.__name__}.{name}"
            elif value.__name__ == f"{module.__name__}.{name}" and _is_public(value):
                places[name] = value.__name__
                modules.append(value)
    # Not imported with the package, nor by asking for a name: so it is read.
    spec = importlib.util.find_spec(f"{package.__name__}.experiments")
    places.setdefault("experiments", f"import {spec.name}")
    for node in ast.parse(pathlib.Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                places.setdefault(alias.name, f"{spec.name}.{alias.name}")
    return places


def _is_public(module):
    # Submodules with one function each are attributes of their package as well.
    return hasattr(module, "__path__") or module.__name__.endswith("interop.tfmot")
