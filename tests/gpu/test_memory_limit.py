"""The whole training stage on a GPU whose memory is limited for real: fewer Gaussians, or a typed error."""

from __future__ import annotations

import json

import pytest
import torch

from services.common.options import Strategy, TrainingOptions
from services.common.stage import StageContext
from services.trainer import stage
from splatmill.errors import Reason, SplatmillError
from tests.helpers.colmap_writer import write_scene

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
MIB = 2**20


@pytest.fixture
def limited():
    """Lets this process have only so many bytes of the GPU's memory beyond what it holds."""
    torch.cuda.init()

    def limit(size: int) -> None:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + size) / total)

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_scene(tmp_path_factory.mktemp("scene") / "sfm", photos=6, points=60_000, size=(640, 480))


def run(scene, folder, **options):
    folder.mkdir()
    lines: list[str] = []
    context = StageContext(folder)
    for progress in stage.run(scene, folder, TrainingOptions.model_validate(options), context):
        lines += progress.log_lines
    return lines, json.loads((folder / "training_report.json").read_text())


def test_training_goes_on_with_fewer(scene, tmp_path, limited):
    limited(400 * MIB)
    lines, report = run(
        scene, tmp_path / "out", iterations=900, strategy=Strategy.MCMC, max_gaussians=2_000_000, test_every=0
    )
    said = [line for line in lines if line.startswith("memory ran out")]
    assert len(said) == len(report["memory_ladder"]) >= 2
    assert "emptied the caches" in said[0]
    assert "no more than" in said[1]
    assert report["iterations"] == 900, "no step is lost"
    assert 60_000 < report["gaussian_count"] < 2_000_000
    assert report["curve"][-1]["loss"] < report["curve"][0]["loss"]


def test_without_room_for_a_step_it_fails(scene, tmp_path, limited):
    limited(24 * MIB)
    with pytest.raises(SplatmillError) as caught:
        run(scene, tmp_path / "out", iterations=20)
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    assert not (tmp_path / "out" / "training_report.json").exists()
