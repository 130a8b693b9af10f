"""Generates the protobuf stubs before the packages are collected; the rest is in pyproject.toml."""

import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithStubs(build_py):
    """build_py that first writes the stubs into the source tree."""

    def run(self) -> None:
        """Generates, then builds."""
        script = Path(__file__).resolve().parent / "protos" / "generate.py"
        runpy.run_path(str(script))["generate"]()
        super().run()


setup(cmdclass={"build_py": BuildWithStubs})
