"""Adam (Kingma and Ba 2015) in one pass over a parameter group."""

# ruff: noqa: E402, I001
from __future__ import annotations

from services.trainer.cpu import environment  # noqa: F401  (before numba)

import numpy as np
from numba import njit, prange

_ONE = np.float32(1)


@njit(parallel=True, cache=True, fastmath=True)
def adam_update(
    parameters, gradients, first, second, rate, beta1, beta2, epsilon, second_correction, threads
):
    """Updates flat float32 arrays in place.

    Args:
        parameters: [n].
        gradients: [n].
        first: [n] running mean of gradients.
        second: [n] running mean of their squares.
        rate: Learning rate / (1 - beta1^step).
        beta1: Decay of the first moment.
        beta2: Decay of the second.
        epsilon: Added to the root.
        second_correction: 1 / sqrt(1 - beta2^step).
        threads: Threads to use.
    """
    total = parameters.shape[0]
    for thread in prange(threads):
        # Unsigned, or numba asks of every index whether it counts from the end, and no vector is used.
        for i in range(np.uint64(total * thread // threads), np.uint64(total * (thread + 1) // threads)):
            g = gradients[i]
            m = beta1 * first[i] + (_ONE - beta1) * g
            v = beta2 * second[i] + (_ONE - beta2) * g * g
            first[i] = m
            second[i] = v
            parameters[i] -= rate * m / (np.sqrt(v) * second_correction + epsilon)
