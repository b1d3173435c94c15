"""What one attempt may use."""

from __future__ import annotations

import resource
from typing import Final

import msgspec

MIB: Final = 1024 * 1024
_SPARE_BYTES: Final = 64 * MIB
"""Beyond the limit of memory, for telling that it was reached."""


class AttemptLimits(msgspec.Struct, frozen=True):
    """Memory and `processes` (threads count) are for all processes of an attempt, the rest for each."""

    memory_mib: int = 1024
    cpu_s: int | None = None
    file_mib: int = 1024
    open_files: int = 256
    processes: int = 64

    def hold(self) -> None:
        """Holds this process, and what it will start, to them. Raises OSError, ValueError."""
        memory = self.memory_mib * MIB
        _set(resource.RLIMIT_DATA, memory, memory + _SPARE_BYTES)
        _set(resource.RLIMIT_FSIZE, self.file_mib * MIB)
        _set(resource.RLIMIT_NOFILE, self.open_files)
        _set(resource.RLIMIT_CORE, 0)
        if self.cpu_s is not None:
            _set(resource.RLIMIT_CPU, self.cpu_s, self.cpu_s + 1)

    @staticmethod
    def give_room() -> None:
        """Lets a process that has used up its memory say so."""
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def _set(what: int, soft: int, hard: int | None = None) -> None:
    """Sets a limit, or the one that already holds where that is lower."""
    _, most = resource.getrlimit(what)
    hard = soft if hard is None else hard
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(what, (soft, hard))
