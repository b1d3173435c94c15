"""What is kept beside the log, in the broker's stores: files by what they hold, memory of runs and agents.

Asked on `writ.store.<tenant>.<principal>.<verb>.<queue>`; a file is the whole tenant's, whatever the queue.
Memory is a run's, a job of that queue, or that of an agent, a name of the queue's own.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from .bounds import TOKEN_MAX_BYTES
from .forms import Answer, Command, Token

PART_MAX_BYTES: Final = 512 * 1024
"""Of a file in one message; in base64 it fits one."""

FILE_MAX_BYTES: Final = 1024 * 1024 * 1024
FILES_MAX_BYTES: Final = 16 * 1024 * 1024 * 1024
"""All files of a tenant, together."""

KEEP_S: Final = 30 * 86_400.0
"""How long a file is kept after it was last put, where nobody says otherwise."""

MEMORY_MAX_BYTES: Final = 192 * 1024
"""A value; so that a note of the call that reads it holds it."""

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
Name = Annotated[str, Meta(max_length=1_024)]
Key = Annotated[str, Meta(min_length=1, max_length=TOKEN_MAX_BYTES)]
TtlS = Annotated[float, Meta(ge=1, le=10 * 365 * 86_400.0)]


class File(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="file", tag_field="writ"):
    """A reference to a file: what it holds, by SHA-256 in hex. Input and output of tasks as it stands.

    `name` and `media` (a media type) are what its giver calls it.
    """

    sha256: Sha256
    size_bytes: Annotated[int, Meta(ge=0, le=FILE_MAX_BYTES)]
    name: Name = ""
    media: Annotated[str, Meta(max_length=256)] = ""


# --- files ------------------------------------------------------------------------------------------------


class PutPart(Command, frozen=True):
    """The next part of a file, which `upload` names while it comes; parts are numbered from 0."""

    upload: Token
    number: Annotated[int, Meta(ge=0)]
    data: Annotated[bytes, Meta(min_length=1, max_length=PART_MAX_BYTES)]


class PutFile(Command, frozen=True):
    """All parts have come, so many: they must be what the file says. It is kept for `keep_s` from now.

    Without parts the file must be there already, and is kept longer.
    """

    file: File
    upload: Token | None = None
    parts: Annotated[int, Meta(ge=0)] = 0
    keep_s: TtlS = KEEP_S


class FindFile(Command, frozen=True):
    """Asks whether there is a file."""

    sha256: Sha256


class GetPart(Command, frozen=True):
    """Asks for the next part of a file, behind that one which was answered with `next`."""

    sha256: Sha256
    after: Annotated[int, Meta(ge=0)] = 0


class ListFiles(Command, frozen=True):
    """Asks for the tenant's files, by what they hold."""

    after: str = ""
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100


class DropFile(Command, frozen=True):
    """Deletes a file."""

    sha256: Sha256


class FileLine(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A file that is there, kept until (UTC, microseconds)."""

    file: File
    until: int


class FileTold(Answer, frozen=True):
    """The file; none where it is not there."""

    found: FileLine | None = None


class PartTold(Answer, frozen=True):
    """A part, and by which `next` the one behind it is asked for; `last` where there is none."""

    data: bytes = b""
    next: int = 0
    last: bool = False


class FilesTold(Answer, frozen=True):
    files: tuple[FileLine, ...] = ()
    more: bool = False


# --- memory -----------------------------------------------------------------------------------------------


class OfMemory(Command, frozen=True, kw_only=True):
    """Base of what is asked of memory: that of a `run`, a job of the subject's queue, or of an `agent`."""

    run: Token | None = None
    agent: Key | None = None


class ReadMemory(OfMemory, frozen=True, kw_only=True):
    """Asks for a value."""

    key: Key


class WriteMemory(OfMemory, frozen=True, kw_only=True):
    """Keeps a value of at most 192 KiB, for `ttl_s` or for good.

    With `revision` only where that is the key's now, 0 for none.
    """

    key: Key
    value: msgspec.Raw
    ttl_s: TtlS | None = None
    revision: Annotated[int, Meta(ge=0)] | None = None


class ForgetMemory(OfMemory, frozen=True, kw_only=True):
    """Deletes a value, or without `key` all of a run or an agent."""

    key: Key | None = None


class ListMemory(OfMemory, frozen=True, kw_only=True):
    """Asks which keys there are."""


class MemoryTold(Answer, frozen=True):
    """A value and its revision; 0 where there is none. `changed`: nothing was written, as it was another."""

    value: msgspec.Raw = msgspec.Raw(b"null")
    revision: int = 0
    changed: bool = False


class KeysTold(Answer, frozen=True):
    keys: tuple[str, ...] = ()


STORE_VERBS: Final[dict[str, tuple[type[Command], type[Answer]]]] = {
    "put_part": (PutPart, Answer),
    "put_file": (PutFile, FileTold),
    "find_file": (FindFile, FileTold),
    "get_part": (GetPart, PartTold),
    "list_files": (ListFiles, FilesTold),
    "drop_file": (DropFile, Answer),
    "read_memory": (ReadMemory, MemoryTold),
    "write_memory": (WriteMemory, MemoryTold),
    "forget_memory": (ForgetMemory, Answer),
    "list_memory": (ListMemory, KeysTold),
}
