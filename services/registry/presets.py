"""What the presets of training come to on the devices that are there.

Trainers say what they expect from the speed of their device. What trainings of a preset
really took on that kind of device is known better; it also shows by how much expectation
and truth differ there, which mends what is expected of the other presets.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from sqlmodel import Session

from services.registry import workers
from services.registry.history import Estimator, variant_of
from services.registry.models import Worker
from splatmill.v1 import options_pb2, progress_pb2


def listed(session: Session) -> list[options_pb2.TrainingDevice]:
    """A message for each kind of device that trainers have, by name; none where no speed is known."""
    kinds: dict[str, list[Worker]] = {}
    for worker in workers.live(session, progress_pb2.STAGE_TRAIN):
        kinds.setdefault(worker.device, []).append(worker)
    estimator = Estimator(session)
    found = []
    for device, group in sorted(kinds.items()):
        said = [options_pb2.TrainingDevice.FromString(w.training_device) for w in group if w.training_device]
        if said:
            slowest = max(said, key=lambda each: sum(preset.seconds for preset in each.presets))
            slowest.device, slowest.workers = device, len(group)
            _mend(slowest.presets, estimator, device)
            found.append(slowest)
    return found


def _mend(presets: Iterable[options_pb2.PresetEstimate], estimator: Estimator, device: str) -> None:
    """Puts what was measured in the place of what was expected."""
    unknown, ratios = [], []
    for preset in presets:
        variant = variant_of(options_pb2.TrainingOptions(preset=preset.preset))
        seconds, preset.past_runs = estimator.past_runs(variant, device)
        if not preset.past_runs:
            unknown.append(preset)
            continue
        if preset.seconds > 0:
            ratios.append(seconds / preset.seconds)
        preset.seconds = seconds
    for preset in unknown:
        preset.seconds *= statistics.median(ratios) if ratios else 1.0
