"""What a checkout that nothing has been generated in yet installs, as an image's build does."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "protos", "client", "services")
GENERATED = ("splatmill/v1", "externalscaler")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> set[str]:
    """Names of the files in a wheel of fresh sources."""
    source = tmp_path_factory.mktemp("source")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "web")
            )
        else:
            shutil.copy(ROOT / name, source)
    for name in GENERATED:
        shutil.rmtree(source / "client" / name)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(out), str(source)], check=True, timeout=120)
    (made,) = out.glob("*.whl")
    with zipfile.ZipFile(made) as archive:
        return set(archive.namelist())


def test_every_proto_has_its_stubs(wheel):
    for proto in (ROOT / "protos").rglob("*.proto"):
        stem = proto.relative_to(ROOT / "protos").with_suffix("").as_posix()
        assert {f"{stem}_pb2.py", f"{stem}_pb2_grpc.py"} <= wheel


def test_every_module_and_what_modules_read(wheel):
    # The gateway is left out: its web front end may hold all of node_modules.
    for path in (*(ROOT / "services").glob("[!g]*/**/*"), *(ROOT / "client" / "splatmill").rglob("*")):
        if path.suffix in (".py", ".cu", ".cuh", ".mako"):
            base = ROOT / "client" if path.is_relative_to(ROOT / "client") else ROOT
            assert path.relative_to(base).as_posix() in wheel
