"""From what training stores (logarithms, logits, coefficients) to what a viewer draws."""

from __future__ import annotations

import numpy as np

from services.common.splat_cloud import Array

SH_C0 = 0.28209479177387814  # Y_0^0 = 1 / (2 sqrt(pi))
_LARGEST_LOG_SCALE = 88.0  # exp of more overflows float32


def linear_scales(log_scales: Array) -> Array:
    """Standard deviations in world units, [N, 3]."""
    scales: Array = np.exp(np.minimum(log_scales, np.float32(_LARGEST_LOG_SCALE)))
    return scales


def opacities(logits: Array) -> Array:
    """Opacities 0 to 1, the logistic function of the logits, [N]; no overflow for large ones."""
    values: Array = np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * logits))
    return values


def base_colors(sh0: Array) -> Array:
    """Colours of degree 0, [N, 3]; 0 to 1 where the display can show them."""
    return np.float32(0.5) + np.float32(SH_C0) * sh0


def unit_quats(quats: Array) -> Array:
    """Quaternions of length 1, wxyz, [N, 4]; the identity where the length is 0."""
    longest = np.abs(quats).max(axis=1, keepdims=True)
    scaled = quats / np.where(longest > 0, longest, np.float32(1))  # squares can neither over- nor underflow
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    identity = np.array([1, 0, 0, 0], np.float32)
    return np.where(length > 0, scaled / np.where(length > 0, length, np.float32(1)), identity)


def to_bytes(values: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Rounds to the nearest integer within 0 to 255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
