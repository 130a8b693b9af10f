"""Photos and their cameras, ready to train on.

Photos stay bytes in memory; the loss turns them into numbers as it reads them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from services.trainer.colmap_model import ColmapModel, ModelImage, read_model
from services.trainer.config import TrainingConfig, held_out_rows
from services.trainer.footprint import PHOTO_SHARE
from services.trainer.photo_cache import CachedPictures, PhotoCache, bytes_of
from services.trainer.scene_types import Camera
from splatmill.errors import Reason, SplatmillError

_COUNTS = 128  # grey of a mask from which on a pixel counts
LEVELS = 3  # full size, half, quarter
_SMALLEST_LEVEL = 80  # pixels on the longest side below which a coarser level shows nothing
_NEAR_SHARE = 0.3
_NEAR_PERCENTILE = 1.0
_NEAR_POINTS = 10  # depths that a percentile needs
_EXTENT_MARGIN = 1.1
_EXTENT_OF_DEPTH = 0.05


@dataclass(frozen=True)
class View:
    """A photo with its camera at one or more sizes, the full one first."""

    name: str
    cameras: tuple[Camera, ...]
    pictures: Sequence[Tensor]
    """Each [height, width, 3] uint8 RGB, or [height, width, 4] of a photo with a mask: 0 where it does
    not count, else 255."""
    near: float
    """Depth in world units up to which nothing real is expected before this camera; 0 if unknown."""


@dataclass(frozen=True)
class Dataset:
    """What is trained on and what it is judged by."""

    train: tuple[View, ...]
    test: tuple[View, ...]
    """Held out of training."""
    extent: float
    """Radius of the scene as the cameras span it, world units."""
    positions: Tensor  # [N, 3] float32, SfM points
    colors: Tensor  # [N, 3] uint8, their RGB

    def to(self, device: torch.device) -> Dataset:
        """The same with its pictures on ``device`` where there is room, else in pinned memory."""
        if device.type != "cuda":
            return self
        total = sum(bytes_of(view.pictures) for view in self.train + self.test)
        free, _ = torch.cuda.mem_get_info(device)

        def place(view: View) -> View:
            if total < free // PHOTO_SHARE:
                return replace(view, pictures=tuple(picture.to(device) for picture in view.pictures))
            if isinstance(view.pictures, CachedPictures):
                view.pictures.cache.pinned = True
                return view
            return replace(view, pictures=tuple(picture.pin_memory() for picture in view.pictures))

        return replace(self, train=tuple(map(place, self.train)), test=tuple(map(place, self.test)))


class DatasetLoader:
    """Reads the output of structure from motion.

    Args:
        folder: With ``images/`` and ``sparse/``.
        config: The run.
        memory: Bytes that decoded photos may take. More of them are decoded as they are needed.

    Raises:
        SplatmillError: The model or a photo is missing or broken, or there are no photos.
    """

    def __init__(self, folder: Path, config: TrainingConfig, memory: int = 1 << 62) -> None:
        self._folder = folder
        self._config = config
        self._model = read_model(folder / "sparse")
        if not self._model.images:
            raise SplatmillError(
                Reason.TOO_FEW_REGISTERED,
                "The reconstruction holds no photos.",
                "Run structure from motion again with photos that overlap more.",
            )
        self._views: list[View] = []
        self._hidden: set[str] = set()  # names of those of which nothing counts
        self._cache = PhotoCache(memory)
        self._lock = threading.Lock()
        self._bytes = 0

    @property
    def photo_count(self) -> int:
        """Photos to load."""
        return len(self._model.images)

    def load(self) -> Iterator[int]:
        """Loads the photos, several at once, and yields how many are there so far."""
        with ThreadPoolExecutor(loading_threads()) as pool:
            try:
                for view in pool.map(self._view, self._model.images):
                    self._views.append(view)
                    yield len(self._views)
                if self._bytes > self._cache.budget:
                    images = zip(self._views, self._model.images, strict=True)
                    self._views = [self._cached(view, image) for view, image in images]
            finally:
                pool.shutdown(cancel_futures=True)

    def dataset(self) -> Dataset:
        """The dataset, once all is loaded."""
        held_out = held_out_rows(len(self._views), self._config.test_every)
        useful = [row for row, view in enumerate(self._views) if view.name not in self._hidden]
        train = tuple(self._views[row] for row in useful if row not in held_out)
        if not train:
            raise SplatmillError(
                Reason.TOO_FEW_REGISTERED,
                "The masks leave nothing of the photos.",
                "Masks are white where a photo counts and black where it does not.",
            )
        return Dataset(
            train=train,
            test=tuple(self._views[row] for row in useful if row in held_out),
            extent=scene_extent(self._model),
            positions=torch.from_numpy(self._model.positions.astype(np.float32)),
            colors=torch.from_numpy(self._model.colors),
        )

    def _view(self, image: ModelImage) -> View:
        intrinsics = self._model.cameras[image.camera_id]
        pictures = self._pictures(image)
        camera = Camera(
            torch.from_numpy(image.cam_from_world.astype(np.float32)),
            intrinsics.fx,
            intrinsics.fy,
            intrinsics.cx,
            intrinsics.cy,
            intrinsics.width,
            intrinsics.height,
        )
        view = View(
            name=image.name,
            cameras=tuple(camera.scaled(level.shape[1], level.shape[0]) for level in pictures),
            pictures=pictures,
            near=near_depth(self._model, image),
        )
        with self._lock:
            self._bytes += bytes_of(pictures)
            full = self._bytes > self._cache.budget
            if not _counts(pictures[0]):
                self._hidden.add(image.name)
        # Here, in the worker: what waits to be taken over counts, too.
        return self._cached(view, image) if full else view

    def _pictures(self, image: ModelImage) -> tuple[Tensor, ...]:
        longest = self._config.train_image_size
        picture = load_picture(self._folder / "images", image.name, longest, self._folder / "masks")
        levels = _pyramid(picture, LEVELS if self._config.coarse_to_fine else 1)
        return tuple(_to_tensor(level) for level in levels)

    def _cached(self, view: View, image: ModelImage) -> View:
        """The view with pictures that are decoded when they are asked for."""
        if isinstance(view.pictures, CachedPictures):
            return view
        levels, size = range(len(view.pictures)), bytes_of(view.pictures)
        pictures = CachedPictures(self._cache, image.name, lambda: self._pictures(image), levels, size)
        return replace(view, pictures=pictures)


def loading_threads() -> int:
    """Photos that are decoded at once."""
    return min(8, os.cpu_count() or 1)


def scene_extent(model: ColmapModel) -> float:
    """Radius of the scene: 1.1 x the largest distance of a camera from the cameras' mean.

    As the 3DGS reference has it. Where the cameras stand (almost) in one place, that says
    nothing of the scene; then it is a twentieth of the median depth of the points.

    Args:
        model: The reconstruction.

    Returns:
        World units, above 0.
    """
    poses = np.stack([image.cam_from_world for image in model.images])
    centers = -np.einsum("nij,ni->nj", poses[:, :3, :3], poses[:, :3, 3])
    spread = _EXTENT_MARGIN * np.linalg.norm(centers - centers.mean(axis=0), axis=1).max()
    depths = np.concatenate([_depths(model, image) for image in model.images])
    depths = depths[depths > 0]
    floor = _EXTENT_OF_DEPTH * float(np.median(depths)) if len(depths) else 0.0
    extent = max(float(spread), floor)
    return extent if extent > 0 else 1.0


def near_depth(model: ColmapModel, image: ModelImage) -> float:
    """Depth up to which nothing is expected: 0.3 x the first percentile of the photo's depths."""
    depths = _depths(model, image)
    depths = depths[depths > 0]
    if len(depths) < _NEAR_POINTS:
        return 0.0
    return _NEAR_SHARE * float(np.percentile(depths, _NEAR_PERCENTILE))


def _depths(model: ColmapModel, image: ModelImage) -> NDArray[np.float64]:
    points = model.positions[image.point_rows]
    depths: NDArray[np.float64] = points @ image.cam_from_world[2, :3] + image.cam_from_world[2, 3]
    return depths


def load_picture(folder: Path, name: str, longest: int | None, masks: Path | None = None) -> Image.Image:
    """A photo, shrunk so that its longest side is at most ``longest`` pixels.

    Args:
        folder: Of the photos.
        name: Of the photo.
        longest: Pixels; None leaves it as it is.
        masks: Folder where ``{name}.png`` is its mask, if it has one.

    Returns:
        RGB, or RGBA where there is a mask that hides something.

    Raises:
        SplatmillError: BAD_FILENAME for a name that leads out of the folder,
            INPUT_NOT_FOUND without the file, IMAGE_TRUNCATED or NOT_AN_IMAGE when it
            cannot be decoded.
    """
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or not parts.name:
        raise SplatmillError(
            Reason.BAD_FILENAME,
            f"The model names a photo {name!r}, which leads out of its folder.",
            field=name,
        )
    try:
        with Image.open(folder / parts) as opened:
            if longest is not None:
                # JPEG decodes at a half or a quarter for less; twice the wanted size loses nothing.
                opened.draft("RGB", (2 * longest, 2 * longest))
            picture = opened.convert("RGB")
    except FileNotFoundError:
        raise SplatmillError(
            Reason.INPUT_NOT_FOUND,
            f"The photo {name} of the reconstruction is missing.",
            "Run structure from motion again.",
            field=name,
        ) from None
    except UnidentifiedImageError:
        raise SplatmillError(Reason.NOT_AN_IMAGE, f"{name} is no image.", field=name) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SplatmillError(
            Reason.IMAGE_TRUNCATED, f"{name} cannot be decoded: {error}.", "Send it again.", field=name
        ) from error
    mask = _load_mask(masks / f"{name}.png", picture.size) if masks is not None else None
    if mask is not None:
        picture.putalpha(mask)
    if longest is None or max(picture.size) <= longest:
        return picture
    scale = longest / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _load_mask(path: Path, size: tuple[int, int]) -> Image.Image | None:
    """A mask at a photo's size; None where there is none or it hides nothing."""
    try:
        with Image.open(path) as opened:
            mask = opened.convert("L").resize(size, Image.Resampling.NEAREST)
    except FileNotFoundError:
        return None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SplatmillError(
            Reason.IMAGE_TRUNCATED, f"The mask {path.name} cannot be decoded: {error}.", field=path.name
        ) from error
    return mask if bool((np.asarray(mask) < _COUNTS).any()) else None


def _counts(picture: Tensor) -> bool:
    """Whether the mask leaves anything of a photo."""
    return picture.shape[2] == 3 or bool(picture[..., 3].any())


def _pyramid(picture: Image.Image, levels: int) -> list[Image.Image]:
    """The picture, its half and its quarter, as far as they still show something."""
    pictures = [picture]
    for level in range(1, levels):
        size = (max(1, round(picture.width / 2**level)), max(1, round(picture.height / 2**level)))
        if max(size) < _SMALLEST_LEVEL:
            break
        pictures.append(picture.resize(size, Image.Resampling.BOX))
    return pictures


def _to_tensor(picture: Image.Image) -> Tensor:
    pixels = np.array(picture, dtype=np.uint8)
    if pixels.shape[2] == 4:
        # Resizing weighs colours with alpha, so that what does not count has left no colour here.
        pixels[..., 3] = np.where(pixels[..., 3] >= _COUNTS, 255, 0)
    return torch.from_numpy(pixels)
