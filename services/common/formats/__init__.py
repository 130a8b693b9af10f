"""Writers of the files that viewers load."""

from services.common.formats.splat import draw_order, write_splat, write_splat44
from services.common.formats.spz import write_spz

__all__ = ["draw_order", "write_splat", "write_splat44", "write_spz"]
