"""Named values and secrets that an attempt reads, each once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from writ.schemas.assets import AssetTold

from .children import ToAsset
from .steps import NotReproducible

if TYPE_CHECKING:
    from .journal import Journal


class Assets:
    """Those of one attempt. A reproduction reads the versions that the first run has read."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._read: dict[tuple[str, bool], bytes] = {}

    async def read(self, name: str, *, secret: bool) -> bytes:
        """The value. Raises StepRefused where the job may not read it, NotReproducible."""
        known = self._read.get((name, secret))
        if known is not None:
            return known
        version: int | None = None
        recording = self._journal.recording
        if recording is not None:
            version = recording.assets.get(name)
            if version is None:
                raise NotReproducible(
                    f"{name} is read; the first run of {recording.job} has read no such asset"
                )
        told: AssetTold = await self._journal.errand(ToAsset(name, secret, version))
        if told.secret:
            self._journal.redactor.learn(told.value)  # in a process of its own nobody else has
        self._read[name, secret] = told.value
        return told.value
