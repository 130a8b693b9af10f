"""A sample capture: photos of a scene that does not exist, with cameras that are known.

The scene is ray-traced with numpy, so it owes nothing to the rasteriser that it helps to test.
"""

from splatmill.sample.camera import SampleCamera, capture_path, orbit_camera
from splatmill.sample.capture import CAMERAS_FILE, read_cameras, write_capture
from splatmill.sample.render import render_view
from splatmill.sample.scene import SCENE_SIZE

__all__ = [
    "CAMERAS_FILE",
    "SCENE_SIZE",
    "SampleCamera",
    "capture_path",
    "orbit_camera",
    "read_cameras",
    "render_view",
    "write_capture",
]
