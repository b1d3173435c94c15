"""How a stream is kept in a cluster of servers."""

from __future__ import annotations

from typing import Any, Final, NamedTuple


class Spread(NamedTuple):
    """On how many servers of a cluster a stream is kept, and the tags that each of them must have.

    With `move` the streams that are there already are brought to this as well, while they are used.
    """

    replicas: int = 1
    tags: tuple[str, ...] = ()
    move: bool = False

    def config(self) -> dict[str, Any]:
        """As a stream's configuration says it."""
        placed = {"placement": {"tags": list(self.tags)}} if self.tags else {}
        return {"num_replicas": self.replicas, **placed}


ALONE: Final = Spread()
