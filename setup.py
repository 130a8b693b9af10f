"""Generates the protobuf stubs; the rest is in pyproject.toml.

Packages are collected while setup() begins: what is generated later is in no wheel, and an
editable installation does not find it.
"""

import runpy
from pathlib import Path

from setuptools import setup

runpy.run_path(str(Path(__file__).resolve().parent / "protos" / "generate.py"))["generate"]()
setup()
