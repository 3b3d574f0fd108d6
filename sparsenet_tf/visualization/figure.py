"""Matplotlib, which is an extra, and figures that belong to no window or state."""


def new_figure(width, height):
    """Return an empty matplotlib figure, in inches, tied to no window or state.

    Raises:
        ImportError: matplotlib is missing.
    """
    matplotlib = import_matplotlib()
    # The object interface: pyplot would choose a backend for the whole process.
    return matplotlib.figure.Figure(
        figsize=(width, height), dpi=150, layout="constrained"
    )


def import_matplotlib():
    """Return matplotlib, or raise an ImportError that says what to install."""
    try:
        import matplotlib
        import matplotlib.backends.backend_agg
        import matplotlib.collections
        import matplotlib.figure
    except ImportError as error:
        raise ImportError(
            f"Pictures need matplotlib ({error}): pip install matplotlib"
        ) from error
    return matplotlib
