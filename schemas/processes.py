"""Processes and their releases: how they are named."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

ProcessName = Annotated[str, Meta(max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_-]*$(?!\n)")]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
"""SHA-256 in hex; of a package, that of its manifest."""

Version = Annotated[
    str, Meta(max_length=64, pattern=r"^(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})$(?!\n)")
]
