"""Metadata stand in pyproject.toml; here are the native operations, which may fail."""

import pathlib
import runpy
import shutil

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

NATIVE = pathlib.Path("sparsenet_tf", "kernels", "native")
# Not imported: that would need Keras, which a build has no need of.
BUILD = runpy.run_path(str(NATIVE / "build.py"), run_name="build")


class BuildNative(build_ext):
    """Builds the operations if there are a compiler and TensorFlow; goes on if not."""

    def build_extension(self, ext):
        """Build them where setuptools looks for the extension."""
        folder = pathlib.Path(self.get_ext_fullpath(ext.name)).parent
        try:
            BUILD["build"](folder)
        except BUILD["BuildError"] as error:
            print(f"Native operations are not built: {error}")

    def copy_extensions_to_source(self):
        """For an editable installation."""
        built = pathlib.Path(self.build_lib) / NATIVE
        for library in built.glob("_ops_tf*.so"):
            shutil.copy2(library, NATIVE / library.name)

    def get_outputs(self):
        """All that was built, which may be nothing."""
        return [
            str(path)
            for path in (pathlib.Path(self.build_lib) / NATIVE).glob("_ops_tf*.so")
        ]

    def get_output_mapping(self):
        """None, so that an editable installation asks for no file that is missing."""
        return {}


class Wheel(bdist_wheel):
    """For any machine where no operations were built, else for this kind of machine."""

    def run(self):
        """Build first: only then is it known."""
        self.run_command("build")
        if not self.get_finalized_command("build_ext").get_outputs():
            self.distribution.ext_modules = []
            self.root_is_pure = True
        super().run()

    def get_tag(self):
        """Any Python 3 will do: the operations are TensorFlow's, not Python's."""
        platform = "any" if self.root_is_pure else super().get_tag()[2]
        return "py3", "none", platform


setup(
    ext_modules=[Extension("sparsenet_tf.kernels.native._ops", sources=[])],
    cmdclass={"bdist_wheel": Wheel, "build_ext": BuildNative},
)
