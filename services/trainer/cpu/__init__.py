"""Rasteriser, loss and optimiser for machines without a GPU, as numba kernels."""
