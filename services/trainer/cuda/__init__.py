"""Rasteriser, loss and optimiser as CUDA kernels of our own, compiled at run time by NVRTC."""
