"""The stage from a trained scene to the published files."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from plyfile import PlyData

from services.common.options import PostprocOptions
from services.common.splat_cloud import SplatCloud, read_ply, write_ply
from services.common.stage import Progress, StageContext
from services.postproc.settings import PostprocSettings
from services.postproc.stage import resolve_parameters, run
from splatmill.errors import Reason, SplatmillError


@pytest.fixture
def train(tmp_path):
    """Writes a trained scene as the training stage does."""

    def write(cloud: SplatCloud, iteration: int = 2000):
        folder = tmp_path / "in" / "point_cloud" / f"iteration_{iteration}"
        folder.mkdir(parents=True)
        write_ply(folder / "point_cloud.ply", cloud)

    return write


@pytest.fixture
def run_stage(tmp_path, exhaust):
    def execute(options: PostprocOptions | None = None):
        for name in ("in", "out", "scratch"):
            (tmp_path / name).mkdir(exist_ok=True)
        context = StageContext(tmp_path / "scratch")
        return exhaust(run(tmp_path / "in", tmp_path / "out", options or PostprocOptions(), context))

    return execute


def test_all_files_hold_the_same_gaussians(tmp_path, make_cloud, train, run_stage):
    cloud = make_cloud(3000)
    cloud.positions[5] = [4000, 0, 0]
    cloud.sh0[6, 1] = np.nan
    train(cloud)
    progress, result = run_stage()
    out = tmp_path / "out"
    count = int(result.metrics["gaussian_count"])
    removed = sum(result.metrics[f"removed_{why}"] for why in ("invalid", "by_distance", "by_clusters"))
    assert result.metrics["gaussian_count_before"] == 3000 == count + removed
    assert result.metrics["removed_invalid"] == 1
    kept = read_ply(out / "point_cloud_filtered.ply")
    assert len(kept) == count == PlyData.read(out / "point_cloud_filtered.ply")["vertex"].count
    assert (out / "scene.splat").stat().st_size == 32 * count
    assert (out / "scene.splat44").stat().st_size == 44 * count
    assert 0 < (out / "scene.spz").stat().st_size < (out / "point_cloud_filtered.ply").stat().st_size / 5
    records = np.fromfile(out / "scene.splat44", np.uint8).reshape(count, 44)
    positions = records[:, :12].copy().view(np.float32)
    assert np.array_equal(np.sort(positions, 0), np.sort(kept.positions, 0))
    report = json.loads((out / "postproc_report.json").read_text())
    assert report["gaussian_count"] == count
    assert report["bytes"]["scene.splat"] == 32 * count
    assert sorted(path.name for path in out.iterdir()) == sorted([*report["bytes"], "postproc_report.json"])
    check_progress(progress, cloud, count)


def check_progress(progress: list[Progress], cloud: SplatCloud, count: int) -> None:
    fractions = [each.fraction for each in progress]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert [each.step for each in progress][0] == "filter"
    lines = [line for each in progress for line in each.log_lines]
    assert "removed 1 Gaussians with NaN or infinite values" in lines
    (summary,) = [line for line in lines if "outliers" in line]
    match = re.fullmatch(
        r"removed ([\d,]+) outliers \((\d+\.\d) %\), ([\d,]+) in small clusters; ([\d,]+) Gaussians remain",
        summary,
    )
    assert int(match[4].replace(",", "")) == count
    assert int(match[1].replace(",", "")) == len(cloud) - 1 - count


def test_the_highest_iteration_is_taken(tmp_path, make_cloud, train, run_stage):
    train(make_cloud(50), 900)
    train(make_cloud(60), 10_000)
    (tmp_path / "in" / "point_cloud" / "iteration_99999").mkdir()  # without a scene
    assert run_stage()[1].metrics["gaussian_count_before"] == 60


def test_options_override_settings(monkeypatch):
    settings = PostprocSettings()
    assert resolve_parameters(PostprocOptions(), settings).k_neighbors == 20
    assert resolve_parameters(PostprocOptions(), settings).std_threshold == 2.0
    assert resolve_parameters(PostprocOptions(), settings).min_cluster_ratio == 0.01
    assert resolve_parameters(PostprocOptions(), settings).remove_small_clusters is True
    monkeypatch.setenv("SPLATMILL_OUTLIER_K_NEIGHBORS", "7")
    options = PostprocOptions(outlier_remove_small_clusters=False, outlier_min_cluster_ratio=0.0)
    resolved = resolve_parameters(options, PostprocSettings())
    assert resolved.k_neighbors == 7
    assert resolved.remove_small_clusters is False
    assert resolved.min_cluster_ratio == 0.0


@pytest.mark.parametrize("count", [0, 4])
def test_nothing_to_draw(make_cloud, train, run_stage, count):
    cloud = make_cloud(count)
    cloud.opacity_logits[:] = np.nan
    train(cloud)
    with pytest.raises(SplatmillError) as caught:
        run_stage()
    assert caught.value.reason == Reason.EMPTY_SCENE
    assert caught.value.remedy
    assert not caught.value.retryable


def test_no_scene_and_a_broken_one(tmp_path, run_stage):
    with pytest.raises(SplatmillError) as caught:
        run_stage()
    assert caught.value.reason == Reason.INPUT_NOT_FOUND
    folder = tmp_path / "in" / "point_cloud" / "iteration_5"
    folder.mkdir(parents=True)
    (folder / "point_cloud.ply").write_text("no ply")
    with pytest.raises(SplatmillError) as caught:
        run_stage()
    assert caught.value.reason == Reason.INVALID_REQUEST


def test_a_single_gaussian_of_degree_0(tmp_path, make_cloud, train, run_stage):
    train(make_cloud(1, degree=0))
    assert run_stage()[1].metrics["gaussian_count"] == 1
    assert (tmp_path / "out" / "scene.splat").stat().st_size == 32
