"""What viewers load, byte for byte."""

from __future__ import annotations

import gzip
import struct
from dataclasses import replace

import numpy as np
import pytest

from services.common.formats import draw_order, spz, write_splat, write_splat44, write_spz
from services.common.formats.values import opacities, unit_quats
from services.common.splat_cloud import SplatCloud

LOGIT_3_4 = float(np.log(3.0))  # opacity 0.75
SH_C0 = 0.28209479177387814


def two_gaussians() -> SplatCloud:
    """A small faint one, then a large opaque one, so that the order must turn."""
    return SplatCloud(
        positions=np.array([[1, -2, 3.5], [0.25, 0, -8]], np.float32),
        log_scales=np.log(np.array([[0.5, 0.25, 0.125], [1, 2, 4]], np.float32)),
        quats=np.array([[2, 0, 0, 0], [0.5, -0.5, 0.5, 0.5]], np.float32),
        opacity_logits=np.array([0, LOGIT_3_4], np.float32),
        sh0=np.array([[0, 0.5 / SH_C0, -9], [0.1 / SH_C0, 0, 9]], np.float32),
        sh_rest=np.array([[[-1, 0.25, 2]] * 3, [[0.5, -0.5, -9]] * 3], np.float32),
    )


def test_splat_bytes(tmp_path):
    cloud = two_gaussians()
    order = draw_order(cloud)
    assert order.tolist() == [1, 0]
    write_splat(tmp_path / "scene.splat", cloud, order)
    large = struct.pack("<6f8B", 0.25, 0, -8, 1, 2, 4, 153, 128, 255, 191, 192, 64, 192, 192)
    small = struct.pack("<6f8B", 1, -2, 3.5, 0.5, 0.25, 0.125, 128, 255, 0, 128, 255, 128, 128, 128)
    assert (tmp_path / "scene.splat").read_bytes() == large + small


def test_splat44_bytes(tmp_path):
    cloud = two_gaussians()
    write_splat44(tmp_path / "scene.splat44", cloud, draw_order(cloud))
    large = struct.pack("<6f4B4f", 0.25, 0, -8, 1, 2, 4, 153, 128, 255, 191, 0.5, -0.5, 0.5, 0.5)
    small = struct.pack("<6f4B4f", 1, -2, 3.5, 0.5, 0.25, 0.125, 128, 255, 0, 128, 1, 0, 0, 0)
    assert (tmp_path / "scene.splat44").read_bytes() == large + small


def test_spz_bytes(tmp_path):
    cloud = two_gaussians()
    write_spz(tmp_path / "scene.spz", cloud, np.array([0, 1]))
    packed = (tmp_path / "scene.spz").read_bytes()
    assert packed[:10] == bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255])  # gzip without name and time
    raw = gzip.decompress(packed)
    assert raw[:16] == b"NGSP" + struct.pack("<IIBBBB", 3, 2, 1, 19, 0, 0)
    fixed = [round(value * 2**19) for value in (1, -2, 3.5, 0.25, 0, -8)]
    assert raw[16:34] == b"".join(struct.pack("<i", value)[:3] for value in fixed)
    assert list(raw[34:36]) == [128, 191]  # opacities 0.5 and 0.75
    color = (0.15 * 0.5 / SH_C0 + 0.5) * 255
    assert list(raw[36:42]) == [128, round(color), 0, round((0.15 * 0.1 / SH_C0 + 0.5) * 255), 128, 255]
    logs = [round((10 + np.log(scale)) * 16) for scale in (0.5, 0.25, 0.125, 1, 2, 4)]
    assert list(raw[42:48]) == logs
    # w is the largest of both: index 3; then x, y, z with sign and magnitude of 511 sqrt(2).
    half = round(0.5 * np.sqrt(2) * 511)
    rotated = 3 << 30 | (1 << 9 | half) << 20 | half << 10 | half
    turned = 0 << 30 | (1 << 9 | half) << 20 | (1 << 9 | half) << 10 | (1 << 9 | half)
    assert struct.unpack("<2I", raw[48:56])[0] == 3 << 30
    assert struct.unpack("<2I", raw[48:56])[1] in (rotated, turned)  # all four are equally large
    assert list(raw[56:]) == [0, 160, 255] * 3 + [192, 64, 0] * 3


def test_spz_says_that_it_is_antialiased(tmp_path):
    for antialiased in (False, True):
        write_spz(tmp_path / "scene.spz", replace(two_gaussians(), antialiased=antialiased), np.array([0, 1]))
        assert gzip.decompress((tmp_path / "scene.spz").read_bytes())[14] == antialiased


def decode_spz(data: bytes) -> dict[str, np.ndarray]:
    """A reader of its own, loop by loop, from the format's description."""
    raw = gzip.decompress(data)
    magic, version, count, degree, bits, _, _ = struct.unpack_from("<IIIBBBB", raw)
    assert (magic, version) == (0x5053474E, 3)
    rest = (degree + 1) ** 2 - 1
    at = 16
    parts = {}
    for name, size in (("p", 9), ("a", 1), ("c", 3), ("s", 3), ("r", 4), ("h", 3 * rest)):
        parts[name] = raw[at : at + size * count]
        at += size * count
    assert at == len(raw)
    triples = [parts["p"][i : i + 3] for i in range(0, 9 * count, 3)]
    positions = [int.from_bytes(triple, "little", signed=True) / 2**bits for triple in triples]
    quats = []
    for (code,) in struct.iter_unpack("<I", parts["r"]):
        largest, left, xyzw = code >> 30, code, [0.0] * 4
        for component in (3, 2, 1, 0):
            if component != largest:
                sign = -1 if left & 512 else 1
                xyzw[component] = sign * (left & 511) / 511 * np.sqrt(0.5)
                left >>= 10
        xyzw[largest] = np.sqrt(max(0.0, 1 - sum(value**2 for value in xyzw)))
        quats.append([xyzw[3], *xyzw[:3]])
    levels = {name: np.frombuffer(parts[name], np.uint8).astype(float) for name in "acsh"}
    return {
        "positions": np.reshape(positions, (-1, 3)),
        "opacities": levels["a"] / 255,
        "sh0": ((levels["c"] / 255 - 0.5) / 0.15).reshape(-1, 3),
        "log_scales": (levels["s"] / 16 - 10).reshape(-1, 3),
        "quats": np.reshape(quats, (-1, 4)),
        "sh_rest": ((levels["h"] - 128) / 128).reshape(count, rest, 3),
    }


def assert_close(decoded: dict[str, np.ndarray], cloud: SplatCloud) -> None:
    """Within the steps that the format has."""
    assert np.abs(decoded["positions"] - cloud.positions).max() < 1e-5
    assert np.abs(np.exp(decoded["log_scales"] - cloud.log_scales) - 1).max() < np.exp(1 / 32) - 0.999
    assert np.abs(decoded["opacities"] - opacities(cloud.opacity_logits)).max() < 0.51 / 255
    seen = np.abs(cloud.sh0) < 0.5 / 0.15
    assert np.abs(decoded["sh0"] - cloud.sh0)[seen].max() < 0.51 / 255 / 0.15
    truth = unit_quats(cloud.quats)
    chord = np.minimum(
        np.linalg.norm(decoded["quats"] - truth, axis=1), np.linalg.norm(decoded["quats"] + truth, axis=1)
    )
    assert np.degrees(4 * np.arcsin(chord / 2)).max() < 0.23
    error = np.abs(decoded["sh_rest"] - np.clip(cloud.sh_rest, -1, 1)).max(axis=(0, 2), initial=0)
    assert (error[:3] < 1.01 / 2**spz.SH1_BITS).all()
    assert (error[3:] < 1.01 / 2**spz.SH_REST_BITS).all()


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_spz_round_trip(tmp_path, make_cloud, degree):
    cloud = make_cloud(3000, degree)
    order = draw_order(cloud)
    write_spz(tmp_path / "scene.spz", cloud, order)
    assert_close(decode_spz((tmp_path / "scene.spz").read_bytes()), cloud.select(order))


def test_spz_round_trip_in_eight_bits(tmp_path, make_cloud, monkeypatch):
    monkeypatch.setattr(spz, "SH1_BITS", 8)
    monkeypatch.setattr(spz, "SH_REST_BITS", 8)
    cloud = make_cloud(1000)
    write_spz(tmp_path / "scene.spz", cloud, np.arange(1000))
    assert_close(decode_spz((tmp_path / "scene.spz").read_bytes()), cloud)


def test_an_independent_reader_of_spz_agrees(tmp_path, make_cloud, capfd):
    gaussforge = pytest.importorskip("gaussforge", reason="it has wheels for Linux on x86-64 only")
    cloud = make_cloud(3000)
    write_spz(tmp_path / "scene.spz", cloud, np.arange(3000))
    read = gaussforge.GaussForge().read((tmp_path / "scene.spz").read_bytes(), "spz")["data"]
    capfd.readouterr()  # the library prints

    def values(name: str, *shape: int) -> np.ndarray:
        return np.frombuffer(read[name], np.float32).reshape(3000, *shape).astype(float)

    decoded = {
        "positions": values("positions", 3),
        "opacities": 1 / (1 + np.exp(-values("alphas"))),
        "sh0": values("colors", 3),
        "log_scales": values("scales", 3),
        "quats": values("rotations", 4),
        "sh_rest": values("sh", 15, 3),
    }
    assert_close(decoded, cloud)


@pytest.mark.parametrize("farthest, bits", [(0.0, 20), (7.9, 20), (8.1, 19), (2000.0, 12), (1e30, 0)])
def test_spz_positions_get_all_the_bits_there_are(tmp_path, make_cloud, farthest, bits):
    cloud = make_cloud(2, 0)
    cloud.positions[:] = [[farthest, 0, 0], [-farthest, 0.001, 0]]
    write_spz(tmp_path / "scene.spz", cloud, np.arange(2))
    data = (tmp_path / "scene.spz").read_bytes()
    assert gzip.decompress(data)[13] == bits
    largest = (2**23 - 1) / 2**bits
    expected = np.clip([farthest, -farthest], -largest, largest)
    assert np.abs(decode_spz(data)["positions"][:, 0] - expected).max() <= 0.5 / 2**bits


def test_equal_scenes_give_equal_bytes(tmp_path, make_cloud):
    for name in ("one", "other"):
        write_spz(tmp_path / name, make_cloud(50), np.arange(50))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_order_of_scales_too_small_for_float32():
    cloud = two_gaussians()
    cloud.log_scales[:] = [[-60, -60, -60], [-60, -60, -61]]
    assert draw_order(cloud).tolist() == [0, 1]


def test_extreme_values_stay_valid(tmp_path):
    cloud = two_gaussians()
    cloud.log_scales[:] = [[500, -500, 0], [88, 0, 0]]
    cloud.opacity_logits[:] = [-1000, 1000]
    cloud.quats[:] = [[0, 0, 0, 0], [0, 1e30, 0, 1e-30]]
    cloud.sh0[:] = 1e30
    for write in (write_splat, write_splat44, write_spz):
        with np.errstate(all="raise", under="ignore"):
            write(tmp_path / write.__name__, cloud, draw_order(cloud))
    rows = np.frombuffer((tmp_path / "write_splat44").read_bytes(), np.uint8).reshape(2, 44)
    floats = rows[:, [*range(24), *range(28, 44)]].copy().view(np.float32)
    assert np.isfinite(floats).all()
    assert sorted(floats[:, 6:].tolist()) == [[0, 1, 0, 0], [1, 0, 0, 0]]
    assert sorted(rows[:, 27].tolist()) == [0, 255]
