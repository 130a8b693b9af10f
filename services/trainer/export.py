"""From the trainer's tensors to what the file formats know."""

from __future__ import annotations

from services.common.splat_cloud import SplatCloud
from services.trainer.scene_types import Gaussians


def to_cloud(gaussians: Gaussians, antialiased: bool = False) -> SplatCloud:
    """The scene in numpy, on the host."""
    arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in gaussians.items()}
    return SplatCloud(
        positions=arrays["means"],
        log_scales=arrays["log_scales"],
        quats=arrays["quats"],
        opacity_logits=arrays["opacity_logits"],
        sh0=arrays["sh0"],
        sh_rest=arrays["sh_rest"],
        antialiased=antialiased,
    )
