"""Reads by which somebody who does not trust the node checks its log: checkpoints and proofs.

Verbs: `checkpoint` (CheckpointQuery -> CheckpointPage), `consistency` (ConsistencyQuery -> ConsistencyPage),
`prove` (ProveQuery -> ProvePage). Hashes are base64.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from .checkpoints import Origin
from .commands import Answer, Token
from .forms import QueueName
from .queries import SEQUENCE_MAX, Query

PROVED_MAX: Final = 500
Size = Annotated[int, Meta(ge=1, le=SEQUENCE_MAX)]


class CheckpointQuery(Query, frozen=True, kw_only=True):
    """The newest checkpoint; one of at least `covering` records, where it is given."""

    covering: Size | None = None


class CheckpointPage(Answer, frozen=True):
    """`checkpoint` is a signed note, of a tree of `size` records; `key` the public key, as witnesses take it.

    `keys` are the statements of all keys that this node has had.
    """

    checkpoint: str = ""
    size: int = 0
    key: str = ""
    keys: str = ""


class ConsistencyQuery(Query, frozen=True, kw_only=True):
    """That the tree of `new` records begins with that of `old` ones."""

    old: Size
    new: Size


class ConsistencyPage(Answer, frozen=True):
    """The two roots, and the path of RFC 6962 between them."""

    old_root: str = ""
    new_root: str = ""
    path: tuple[str, ...] = ()


class ProveQuery(Query, frozen=True, kw_only=True):
    """That the records of a job are in the log, and that they are all.

    Without `size` a checkpoint that covers all of them is chosen; a further page is asked for with `after`,
    the sequence of the last record of the page before, and that checkpoint's size.
    """

    queue: QueueName
    id: Token
    after: Annotated[int, Meta(ge=0, le=SEQUENCE_MAX)] = 0
    size: Size | None = None
    limit: Annotated[int, Meta(ge=1, le=PROVED_MAX)] = 200


class ProvedRecord(msgspec.Struct, frozen=True):
    """A record, its body exactly as stored, and the path from its leaf to the root of the checkpoint."""

    seq: int
    subject: str
    body: str
    path: tuple[str, ...]


class ProvePage(Answer, frozen=True):
    """`statement` is a signed note that says which records are the job's, up to the checkpoint.

    The first page has `checkpoint`, `statement` and `keys`; `more` says that another follows.
    """

    size: int = 0
    checkpoint: str = ""
    statement: str = ""
    keys: str = ""
    records: tuple[ProvedRecord, ...] = ()
    more: bool = False


class JobProof(msgspec.Struct, frozen=True):
    """All records of a job with what proves them, for a file: see `orchestrator/replay/offline.py`."""

    writ_proof: int
    queue: str
    id: str
    checkpoint: str
    statement: str
    keys: str
    records: tuple[ProvedRecord, ...]


def job_statement(origin: Origin, size: int, subject: str, count: int, leaves: str) -> str:
    """The text by which the node says that `count` records are all that the first `size` hold of a job.

    `leaves` is the SHA-256, in hex, of the hashes of their leaves in order.
    """
    return f"{origin}/job\n{size}\nsubject {subject}\nrecords {count}\nleaves {leaves}\n"
