"""Writes the Python stubs of the protos into the client package.

The proto package, its folder and the Python package have one name, so that no import
is rewritten afterwards. Stubs are made at build and never committed.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
OUT = ROOT / "client"


def generate(out: Path = OUT) -> None:
    """Writes ``*_pb2.py`` and ``*_pb2_grpc.py`` below ``out``, with type stubs where mypy-protobuf is.

    Args:
        out: Folder that becomes the root of the Python packages.

    Raises:
        RuntimeError: protoc refused the protos; its words are on stderr.
    """
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    well_known = resources.files("grpc_tools") / "_proto"
    arguments = ["protoc", f"-I{PROTOS}", f"-I{well_known}"]
    arguments += [f"--python_out={out}", f"--grpc_python_out={out}"]
    if importlib.util.find_spec("mypy_protobuf"):  # not in the isolated environment of a build
        for name in ("mypy", "mypy_grpc"):
            plugin = Path(sys.executable).parent / f"protoc-gen-{name}"
            arguments += [f"--plugin=protoc-gen-{name}={plugin}", f"--{name}_out={out}"]
    if protoc.main(arguments + sources) != 0:
        raise RuntimeError("protoc could not compile the protos; see its messages above")
    for source in sources:
        (out / source).parent.joinpath("__init__.py").touch()


if __name__ == "__main__":
    generate()
