"""What is told of checkpoints, of the mirror and of alarms."""

from __future__ import annotations

from typing import Final

from writ.projections.checkpoints import Checkpointing
from writ.projections.watch import Watch
from writ.schemas import catalog
from writ.schemas.events import AlarmKind
from writ.schemas.metrics import Family, of_partition, told

WATCHED: Final = tuple([kind for kind in AlarmKind if kind is not AlarmKind.BREAK_GLASS])
"""What the views watch over; of the other one the node itself hears."""


def of_audit(partition: int, checkpoints: Checkpointing, watch: Watch) -> list[Family]:
    """The mirror's lag only where there is a mirror."""
    families = [
        told(catalog.CHECKPOINT_LAG, checkpoints.waiting_s),
        *[told(catalog.ALARM, int(kind in watch.standing), kind.value) for kind in WATCHED],
    ]
    if watch.mirror_lag is not None:
        families.append(told(catalog.MIRROR_LAG, watch.mirror_lag))
    return of_partition(partition, families)
