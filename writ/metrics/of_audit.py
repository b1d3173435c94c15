"""What is told of checkpoints, of the mirror and of alarms."""

from __future__ import annotations

from writ.projections.checkpoints import Checkpointing
from writ.projections.watch import Watch
from writ.schemas import catalog
from writ.schemas.events import AlarmKind
from writ.schemas.metrics import Family, told


def of_audit(checkpoints: Checkpointing, watch: Watch) -> list[Family]:
    """The mirror's lag only where there is a mirror."""
    families = [
        told(catalog.CHECKPOINT_LAG, checkpoints.waiting_s),
        *[told(catalog.ALARM, int(kind in watch.standing), kind.value) for kind in AlarmKind],
    ]
    if watch.mirror_lag is not None:
        families.append(told(catalog.MIRROR_LAG, watch.mirror_lag))
    return families
