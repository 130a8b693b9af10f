"""A slow renderer in float64 with autograd: what every backend is compared with.

Written for clarity: each Gaussian against each pixel, no tiles. Conventions as in
``services.trainer.backend``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from services.trainer.scene_types import Camera, Gaussians

LOW_PASS = 0.3
NEAR_PLANE = 0.01


def sh_basis(directions: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics of unit vectors [N, 3], [N, (degree + 1)^2]."""
    x, y, z = directions.unbind(-1)
    terms = [torch.full_like(x, 0.28209479177387814)]
    if degree >= 1:
        terms += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree >= 2:
        terms += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2 * z * z - x * x - y * y),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (x * x - y * y),
        ]
    if degree >= 3:
        terms += [
            -0.5900435899266435 * y * (3 * x * x - y * y),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * z * z - x * x - y * y),
            0.3731763325901154 * z * (2 * z * z - 3 * x * x - 3 * y * y),
            -0.4570457994644658 * x * (4 * z * z - x * x - y * y),
            1.445305721320277 * z * (x * x - y * y),
            -0.5900435899266435 * x * (x * x - 3 * y * y),
        ]
    return torch.stack(terms, -1)


def rotations(quats: Tensor) -> Tensor:
    """Rotation matrices [N, 3, 3] of quaternions wxyz [N, 4], normalised here."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def project(g: Gaussians, camera: Camera) -> tuple[Tensor, Tensor, Tensor]:
    """Means on the picture [N, 2], covariances [N, 2, 2] and depths [N]."""
    pose = camera.cam_from_world.to(g.means)
    cam = g.means @ pose[:3, :3].T + pose[:3, 3]
    x, y, z = cam.unbind(-1)
    safe = torch.where(z > NEAR_PLANE, z, torch.ones_like(z))
    mx, my = 0.15 * camera.width / camera.fx, 0.15 * camera.height / camera.fy
    lo_x, hi_x = -camera.cx / camera.fx - mx, (camera.width - camera.cx) / camera.fx + mx
    lo_y, hi_y = -camera.cy / camera.fy - my, (camera.height - camera.cy) / camera.fy + my
    tx, ty = (x / safe).clamp(lo_x, hi_x) * safe, (y / safe).clamp(lo_y, hi_y) * safe
    zero = torch.zeros_like(safe)
    jacobian = torch.stack(
        [
            torch.stack([camera.fx / safe, zero, -camera.fx * tx / safe**2], -1),
            torch.stack([zero, camera.fy / safe, -camera.fy * ty / safe**2], -1),
        ],
        -2,
    )
    factor = jacobian @ pose[:3, :3] @ rotations(g.quats) @ torch.diag_embed(g.log_scales.exp())
    covariance = factor @ factor.transpose(-1, -2) + LOW_PASS * torch.eye(2, dtype=g.means.dtype)
    mean = torch.stack([camera.fx * x / safe + camera.cx, camera.fy * y / safe + camera.cy], -1)
    return mean, covariance, z


def compensation(covariance: Tensor) -> Tensor:
    """rho [N] of covariances after the low-pass filter, [N, 2, 2]: see ``services.trainer.backend``."""
    before = torch.linalg.det(covariance - LOW_PASS * torch.eye(2, dtype=covariance.dtype))
    flat = before <= 0  # kept from the root, whose slope is infinite there
    ratio = torch.where(flat, 1.0, before) / torch.linalg.det(covariance)
    return torch.where(flat, 0.0, ratio.sqrt())


def render(
    g: Gaussians,
    camera: Camera,
    sh_degree: int,
    background: Tensor,
    means2d_offset: Tensor | None = None,
    antialiased: bool = False,
) -> Tensor:
    """The picture, [height, width, 3]. ``means2d_offset`` [N, 2] is added to the projected means."""
    mean, covariance, depth = project(g, camera)
    if means2d_offset is not None:
        mean = mean + means2d_offset
    pose = camera.cam_from_world.to(g.means)
    center = -pose[:3, :3].T @ pose[:3, 3]
    directions = torch.nn.functional.normalize(g.means - center, dim=-1)
    coefficients = torch.cat([g.sh0[:, None], g.sh_rest], 1)[:, : (sh_degree + 1) ** 2]
    color = (torch.einsum("nk,nkc->nc", sh_basis(directions, sh_degree), coefficients) + 0.5).clamp_min(0)
    conic = torch.linalg.inv(covariance)
    opacity = torch.sigmoid(g.opacity_logits)
    if antialiased:
        opacity = opacity * compensation(covariance)
    v, u = torch.meshgrid(
        torch.arange(camera.height, dtype=g.means.dtype) + 0.5,
        torch.arange(camera.width, dtype=g.means.dtype) + 0.5,
        indexing="ij",
    )
    pixels = torch.stack([u, v], -1).reshape(-1, 2)
    transmittance = torch.ones(len(pixels), dtype=g.means.dtype)
    live = torch.ones(len(pixels), dtype=torch.bool)
    picture = torch.zeros(len(pixels), 3, dtype=g.means.dtype)
    for i in torch.argsort(depth).tolist():
        if not depth[i] > NEAR_PLANE:
            continue
        d = mean[i] - pixels
        power = 0.5 * (conic[i, 0, 0] * d[:, 0] ** 2 + conic[i, 1, 1] * d[:, 1] ** 2)
        power = power + conic[i, 0, 1] * d[:, 0] * d[:, 1]
        alpha = (opacity[i] * torch.exp(-power)).clamp_max(0.99)
        after = transmittance * (1 - alpha)
        visible = alpha >= 1 / 255
        live = live & ~(visible & (after < 1e-4))
        takes = live & visible
        picture = picture + torch.where(takes, alpha * transmittance, 0.0)[:, None] * color[i]
        transmittance = torch.where(takes, after, transmittance)
    picture = picture + transmittance[:, None] * background.to(picture)
    return picture.reshape(camera.height, camera.width, 3)


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Mean SSIM of two pictures [height, width, 3], window 11, sigma 1.5, zero padding."""
    offsets = torch.arange(11, dtype=first.dtype) - 5
    line = torch.exp(-(offsets**2) / (2 * 1.5**2))
    line = line / line.sum()
    window = (line[:, None] * line[None]).expand(3, 1, 11, 11)

    def blur(image: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(image, window, padding=5, groups=3)

    x, y = first.permute(2, 0, 1)[None], second.permute(2, 0, 1)[None]
    mu_x, mu_y = blur(x), blur(y)
    var_x, var_y, cov = blur(x * x) - mu_x**2, blur(y * y) - mu_y**2, blur(x * y) - mu_x * mu_y
    top = (2 * mu_x * mu_y + 0.01**2) * (2 * cov + 0.03**2)
    return (top / ((mu_x**2 + mu_y**2 + 0.01**2) * (var_x + var_y + 0.03**2))).mean()


def loss_and_gradients(
    gaussians: Gaussians,
    camera: Camera,
    target: Tensor,
    sh_degree: int,
    background: Tensor,
    dssim_weight: float,
    antialiased: bool = False,
    exposure: Tensor | None = None,
) -> tuple[Tensor, Gaussians, Tensor]:
    """Loss, its gradient by the parameters, and the norms of that by the means in NDC, all float64.

    The gradient by ``exposure``, a leaf of [3, 4] float64, is left in its ``grad``.
    """
    leaves = Gaussians(
        **{n: t.detach().cpu().double().clone().requires_grad_() for n, t in gaussians.items()}
    )
    offset = torch.zeros(gaussians.count, 2, dtype=torch.float64, requires_grad=True)
    picture = render(leaves, camera, sh_degree, background.cpu().double(), offset, antialiased)
    if exposure is not None:
        picture = picture @ exposure[:, :3].T + exposure[:, 3]
    wanted = target[..., :3].cpu().double() / 255
    if target.shape[2] == 4:
        weight = target[..., 3:].cpu().double() / 255
        picture, wanted = weight * picture, weight * wanted
    l1 = (picture - wanted).abs().mean()
    loss = (1 - dssim_weight) * l1 + dssim_weight * (1 - ssim(picture, wanted))
    loss.backward()
    half = torch.tensor([camera.width / 2, camera.height / 2], dtype=torch.float64)
    zeros = {n: torch.zeros_like(t) if t.grad is None else t.grad for n, t in leaves.items()}
    offset_gradient = torch.zeros_like(offset) if offset.grad is None else offset.grad
    return loss.detach(), Gaussians(**zeros), (offset_gradient * half).norm(dim=-1)
