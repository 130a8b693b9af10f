"""Parts of photos that do not count: nothing is learned from them and nothing judged by them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from services.common.options import TrainingOptions
from services.common.stage import StageContext
from services.trainer import stage
from services.trainer.backends import ChosenBackend
from services.trainer.config import resolve
from services.trainer.cpu.backend import CpuBackend
from services.trainer.dataset import DatasetLoader
from services.trainer.evaluate import psnr, ssim
from services.trainer.exposure import cross_fitted
from services.trainer.memory import _halved
from services.trainer.settings import TrainerSettings
from splatmill.errors import Reason, SplatmillError
from tests.helpers import reference_renderer as reference
from tests.helpers.colmap_writer import write_scene
from tests.helpers.random_scene import look_at_origin, random_gaussians
from tests.helpers.slow_backend import SlowBackend


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def backend():
    return CpuBackend()


def masked_target(height: int, width: int) -> torch.Tensor:
    """Noise with weights of 0, 255 and between."""
    target = torch.randint(0, 256, (height, width, 4), dtype=torch.uint8, generator=generator())
    target[: height // 2, :, 3] = 0
    target[:, : width // 3, 3] = 255
    return target


@pytest.mark.parametrize("dssim_weight", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("exposed", [False, True])
def test_gradients_against_autograd(backend, dssim_weight, exposed):
    scene, camera = random_gaussians(120, seed=1), look_at_origin(75, 41)
    exposure = torch.eye(3, 4) + 0.1 if exposed else None
    leaf = exposure.double().requires_grad_() if exposed else None
    arguments = (scene, camera, masked_target(41, 75), 3, torch.tensor([0.2, 0.4, 0.6]), dssim_weight, False)
    loss, gradients, norms = reference.loss_and_gradients(*arguments, leaf)
    out = backend.loss_and_gradients(*arguments, exposure)
    assert float(out.loss) == pytest.approx(float(loss), rel=1e-5)
    for (name, value), (_, truth) in zip(out.gradients.items(), gradients.items(), strict=True):
        assert float((value.double() - truth).norm() / truth.norm()) < 1e-4, name
    assert torch.allclose(out.mean2d_gradient_norms.double(), norms, rtol=1e-3, atol=1e-9)


def test_what_is_hidden_changes_nothing(backend):
    scene, camera, background = random_gaussians(120), look_at_origin(64, 48), torch.zeros(3)
    target = masked_target(48, 64)
    target[..., 3] = torch.where(target[..., 3] > 128, 255, 0)
    other = target.clone()
    hidden = target[..., 3] == 0
    other[hidden] = torch.tensor([255, 0, 255, 0], dtype=torch.uint8)
    outs = []
    for photo in (target, other):
        out = backend.loss_and_gradients(scene, camera, photo, 3, background, 0.2)
        outs.append((out.loss, {name: tensor.clone() for name, tensor in out.gradients.items()}))
    assert outs[0][0] == outs[1][0]
    assert all(torch.equal(outs[0][1][name], outs[1][1][name]) for name in outs[0][1])
    target[..., 3] = 0
    out = backend.loss_and_gradients(scene, camera, target, 3, background, 0.2)
    assert float(out.loss) == pytest.approx(0, abs=1e-6)
    assert all(float(tensor.abs().max()) < 1e-9 for _, tensor in out.gradients.items())


def test_a_mask_that_hides_nothing_is_as_none(backend):
    scene, camera, background = random_gaussians(120), look_at_origin(64, 48), torch.zeros(3)
    target = torch.randint(0, 256, (48, 64, 4), dtype=torch.uint8, generator=generator())
    target[..., 3] = 255
    outs = [
        backend.loss_and_gradients(scene, camera, photo, 3, background, 0.2).gradients.means.clone()
        for photo in (target, target[..., :3])
    ]
    assert torch.allclose(*outs, rtol=1e-5, atol=1e-9)


def test_photos_of_another_shape_are_refused(backend):
    scene, camera = random_gaussians(3), look_at_origin(64, 48)
    for shape, dtype in (
        ((48, 64, 2), torch.uint8),
        ((48, 63, 3), torch.uint8),
        ((48, 64, 3), torch.float32),
    ):
        with pytest.raises(ValueError, match="expected uint8"):
            backend.loss_and_gradients(scene, camera, torch.zeros(shape, dtype=dtype), 3, torch.zeros(3), 0.2)


def test_quality_is_that_of_what_counts():
    photo, noise = (torch.rand(40, 50, 3, generator=generator(seed)) for seed in (0, 1))
    weights = torch.zeros(40, 50)
    weights[:, :20] = 1
    picture = torch.where(weights[..., None] > 0, photo + 0.1, noise)
    assert psnr(picture, photo, weights) == pytest.approx(20, abs=1e-3)
    alike = torch.where(weights[..., None] > 0, photo, noise)
    assert psnr(alike, photo, weights) == 100
    assert ssim(alike, photo, weights) == pytest.approx(1, abs=1e-5)
    assert ssim(alike, photo) < 0.8
    fitted = cross_fitted(torch.where(weights[..., None] > 0, 0.5 * photo, noise), photo, weights)
    assert psnr(fitted, photo, weights) > 45


def with_masks(folder, hides):
    """Hides garbage in each photo: ``hides`` answers the hidden part, [h, w] bool, by row."""
    (folder / "masks").mkdir()
    for row, path in enumerate(sorted((folder / "images").iterdir())):
        with Image.open(path) as image:
            pixels = np.array(image)
        hidden = hides(row, pixels.shape[:2])
        pixels[hidden] = np.random.default_rng(row).integers(0, 256, (int(hidden.sum()), 3))
        Image.fromarray(pixels).save(path)
        Image.fromarray(np.where(hidden, 0, 255).astype(np.uint8)).save(folder / "masks" / f"{path.name}.png")
    return folder


def load(folder, **options):
    config = resolve(TrainingOptions(**options), TrainerSettings(), "cpu")
    loader = DatasetLoader(folder, config)
    list(loader.load())
    return loader.dataset()


def block(row, shape):
    hidden = np.zeros(shape, bool)
    hidden[: shape[0] // 2, : shape[1] // 3] = row % 2
    return hidden


def test_masks_are_read_and_shrink_with_their_photos(tmp_path):
    plain = load(
        write_scene(tmp_path / "plain", photos=4, size=(640, 400)), train_image_size=320, test_every=0
    )
    folder = with_masks(write_scene(tmp_path / "sfm", photos=4, size=(640, 400)), block)
    views = load(folder, train_image_size=320, test_every=0).train
    assert [view.pictures[0].shape[2] for view in views] == [3, 4, 3, 4]
    masked, clean = views[1], plain.train[1]
    levels = [*zip(masked.pictures, clean.pictures, strict=True)]
    halved = _halved(replace(masked, cameras=masked.cameras[:1], pictures=masked.pictures[:1]))
    levels.append((halved.pictures[0], clean.pictures[1]))
    for picture, truth in levels:
        height, width = picture.shape[:2]
        weights = picture[..., 3]
        assert set(weights.unique().tolist()) == {0, 255}
        assert not weights[: height // 2 - 1, : width // 3 - 1].any()
        assert weights[height // 2 + 1 :].all()
        assert weights[:, width // 3 + 2 :].all()
        off = (picture[..., :3].int() - truth.int()).abs()[weights == 255]
        assert off.max() < 48, "no garbage bleeds into what counts"
        assert off.float().mean() < 1


def test_photos_of_which_nothing_counts_are_left_out(tmp_path):
    folder = with_masks(
        write_scene(tmp_path / "a", photos=8), lambda row, shape: np.full(shape, row in (0, 3))
    )
    dataset = load(folder, test_every=4)
    assert [view.name for view in dataset.test] == ["photo_004.png"]
    assert "photo_003.png" not in [view.name for view in dataset.train]
    with pytest.raises(SplatmillError) as caught:
        load(with_masks(write_scene(tmp_path / "b", photos=4), lambda row, shape: np.ones(shape, bool)))
    assert caught.value.reason is Reason.TOO_FEW_REGISTERED


def test_a_broken_mask_is_named(tmp_path):
    folder = with_masks(write_scene(tmp_path, photos=4), block)
    (folder / "masks/photo_001.png.png").write_bytes(b"no picture")
    with pytest.raises(SplatmillError) as caught:
        load(folder)
    assert caught.value.field == "photo_001.png.png"


def test_garbage_under_masks_costs_no_quality(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "choose_backend", lambda preference: ChosenBackend(SlowBackend(), "slow"))

    def hides(row, shape):
        hidden = np.zeros(shape, bool)
        hidden[:, (3 * row) % shape[1] : (3 * row) % shape[1] + shape[1] // 3] = True
        return hidden

    clean = write_scene(tmp_path / "clean", photos=10, points=40)
    garbage = with_masks(write_scene(tmp_path / "garbage", photos=10, points=40), hides)
    unmasked = with_masks(write_scene(tmp_path / "unmasked", photos=10, points=40), hides)
    for mask in (unmasked / "masks").iterdir():
        mask.unlink()
    quality = {}
    for source in (clean, garbage, unmasked):
        target = tmp_path / f"{source.name}_out"
        target.mkdir()
        list(stage.run(source, target, TrainingOptions(iterations=250, test_every=5), StageContext(target)))
        report = json.loads((target / "training_report.json").read_text())
        assert math.isfinite(report["test_ssim"])
        quality[source.name] = report["test_psnr"]
    assert quality["garbage"] > quality["clean"] - 1.0
    assert quality["garbage"] > quality["unmasked"] + 2.0
