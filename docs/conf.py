"""How Sphinx makes the guides and the reference: `make docs`."""

from sparsenet_tf import __version__

project = "sparsenet_tf"
copyright = "the authors of sparsenet_tf, under the Apache License 2.0"
version = release = __version__
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {version}"
# Google-style docstrings, and Markdown for the guides.
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
napoleon_numpy_docstring = False
default_role = "code"  # which docstrings have in single backticks
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
add_module_names = False


def show_examples(app, what, name, obj, options, lines):
    """Tell reST of doctests, which our docstrings have right below "Example:"."""
    for i in reversed(range(1, len(lines))):
        if lines[i].startswith(">>>") and lines[i - 1] == "Example:":
            lines[i - 1 : i] = [".. rubric:: Example", ""]


def setup(app):
    """Sphinx calls this."""
    app.connect("autodoc-process-docstring", show_examples, priority=100)
