"""Print what the tests need with another backend of Keras, which the argument names.

That is what the installed sparsenet_tf requires, but for TensorFlow.
"""

import importlib.metadata
import sys

TOOLS = ("hypothesis", "pytest")


def requirements(backend):
    """Those of no extra, of the backend's and of `figures`, and the tools."""
    found = []
    for line in importlib.metadata.requires("sparsenet_tf"):
        requirement, _, marker = line.partition(";")
        wanted = any(f'"{extra}"' in marker for extra in (backend, "figures"))
        if not marker or wanted or requirement.startswith(TOOLS):
            found.append(requirement.strip())
    return [name for name in found if not name.startswith("tensorflow")]


if __name__ == "__main__":
    print(*requirements(sys.argv[1]))
