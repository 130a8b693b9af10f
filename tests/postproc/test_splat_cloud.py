"""Scenes in numpy and their PLY."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from plyfile import PlyData, PlyElement

from services.common.splat_cloud import SplatCloud, ply_properties, read_ply, write_ply
from splatmill.errors import Reason, SplatmillError


def assert_equal(one: SplatCloud, other: SplatCloud) -> None:
    for (name, mine), (_, theirs) in zip(one.items(), other.items(), strict=True):
        np.testing.assert_array_equal(mine, theirs, err_msg=name)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 40_000])
def test_ply_round_trip_is_exact(tmp_path, make_cloud, degree, count):
    cloud = make_cloud(count, degree)
    write_ply(tmp_path / "cloud.ply", cloud)
    back = read_ply(tmp_path / "cloud.ply")
    assert back.sh_degree == degree
    assert_equal(cloud, back)


@pytest.mark.parametrize("antialiased", [False, True])
def test_ply_says_how_it_was_trained(tmp_path, make_cloud, antialiased):
    cloud = replace(make_cloud(30), antialiased=antialiased)
    write_ply(tmp_path / "cloud.ply", cloud.select(np.arange(20)))
    back = read_ply(tmp_path / "cloud.ply")
    assert back.antialiased is antialiased
    assert_equal(cloud.select(np.arange(20)), back)
    header = (tmp_path / "cloud.ply").read_bytes().split(b"end_header")[0]
    assert (b"\ncomment antialiased\n" in header) is antialiased


def test_ply_layout_is_the_standard_one(tmp_path, make_cloud):
    cloud = make_cloud(2)
    write_ply(tmp_path / "cloud.ply", cloud)
    raw = (tmp_path / "cloud.ply").read_bytes()
    assert raw.startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex 2\nproperty float x\n")
    assert len(raw) - raw.index(b"end_header\n") - len(b"end_header\n") == 2 * 62 * 4
    vertices = PlyData.read(tmp_path / "cloud.ply")["vertex"]
    assert [prop.name for prop in vertices.properties] == ply_properties(3)
    assert vertices["f_rest_0"][1] == cloud.sh_rest[1, 0, 0]  # red's first
    assert vertices["f_rest_14"][1] == cloud.sh_rest[1, 14, 0]  # red's last
    assert vertices["f_rest_15"][1] == cloud.sh_rest[1, 0, 1]  # green's first
    assert vertices["f_rest_44"][1] == cloud.sh_rest[1, 14, 2]  # blue's last
    assert vertices["rot_0"][0] == cloud.quats[0, 0]
    assert vertices["nx"][0] == 0


@pytest.mark.parametrize("text, order", [(True, "="), (False, ">")])
def test_other_encodings_and_property_orders_are_read(tmp_path, make_cloud, text, order):
    cloud = make_cloud(50, degree=1)
    write_ply(tmp_path / "cloud.ply", cloud)
    vertices = PlyData.read(tmp_path / "cloud.ply")["vertex"].data
    names = [name for name in vertices.dtype.names[::-1] if not name.startswith("n")]
    turned = np.empty(50, [(name, "f8" if name == "x" else "f4") for name in names])
    for name in names:
        turned[name] = vertices[name]
    PlyData([PlyElement.describe(turned, "vertex")], text=text, byte_order=order).write(
        tmp_path / "other.ply"
    )
    other = read_ply(tmp_path / "other.ply")
    for (name, mine), (_, theirs) in zip(cloud.items(), other.items(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, err_msg=name)


def _vertex_ply(path, names, kind="f4"):
    PlyData([PlyElement.describe(np.zeros(3, [(name, kind) for name in names]), "vertex")]).write(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no ply at all",
        b"\xff\xd8\xff\xe0" + bytes(100),
        b"ply\nformat binary_little_endian 1.0\nelement vertex 1000000000000\nproperty float x\nend_header\n",
        b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nend_header\n1\nseven\n",
        b"ply\nformat binary_little_endian 1.0\nelement face 0\nproperty float x\nend_header\n",
        b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty list uchar int x\nend_header\n\0",
        b"ply\nformat binary_little_endian 1.0\nelement vertex -1\nproperty float x\nend_header\n",
    ],
)
def test_broken_files_are_typed_errors(tmp_path, content):
    (tmp_path / "bad.ply").write_bytes(content)
    with pytest.raises(SplatmillError) as caught:
        read_ply(tmp_path / "bad.ply")
    assert caught.value.reason == Reason.INVALID_REQUEST
    assert "bad.ply" in caught.value.message
    assert not caught.value.retryable


def test_cut_off_file(tmp_path, make_cloud):
    write_ply(tmp_path / "cloud.ply", make_cloud(100))
    (tmp_path / "cut.ply").write_bytes((tmp_path / "cloud.ply").read_bytes()[:-1])
    with pytest.raises(SplatmillError, match=r"cut\.ply"):
        read_ply(tmp_path / "cut.ply")


def test_missing_file_and_missing_properties(tmp_path):
    with pytest.raises(SplatmillError) as caught:
        read_ply(tmp_path / "none.ply")
    assert caught.value.reason == Reason.INPUT_NOT_FOUND
    _vertex_ply(tmp_path / "points.ply", ["x", "y", "z", "red"])
    with pytest.raises(SplatmillError, match="lacks the properties f_dc_0"):
        read_ply(tmp_path / "points.ply")
    _vertex_ply(tmp_path / "odd.ply", [*ply_properties(0), "f_rest_0"])
    with pytest.raises(SplatmillError, match="1 f_rest properties"):
        read_ply(tmp_path / "odd.ply")


def test_select_and_finite(make_cloud):
    cloud = make_cloud(20_000)
    cloud.positions[3, 1] = np.nan
    cloud.sh_rest[17_000, 14, 2] = np.inf
    keep = cloud.finite()
    assert np.flatnonzero(~keep).tolist() == [3, 17_000]
    kept = cloud.select(keep)
    assert len(kept) == 19_998
    np.testing.assert_array_equal(kept.quats, np.delete(cloud.quats, [3, 17_000], axis=0))


def test_shapes_and_types_are_checked(make_cloud):
    good = dict(make_cloud(4).items())
    with pytest.raises(ValueError, match="quats has shape"):
        SplatCloud(**{**good, "quats": good["quats"][:, :3]})
    with pytest.raises(ValueError, match="float64"):
        SplatCloud(**{**good, "sh0": good["sh0"].astype(np.float64)})
    with pytest.raises(ValueError, match="sh_rest"):
        SplatCloud(**{**good, "sh_rest": good["sh_rest"][:, :5]})
