"""The one archive that holds certain files: no other bytes do.

Files stand uncompressed and in order, with one time and one mode: what a compressor makes of them differs
from one version of its library to the next.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Final

from .manifest import FILES_MAX, PACKAGE_MAX_BYTES, PackageError, path_fault

_EARLIEST: Final = (1980, 1, 1, 0, 0, 0)
_FILE_MODE: Final = 0o100644 << 16
_UNIX: Final = 3
_UNREADABLE: Final = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
    *(LookupError, OverflowError, RuntimeError, ValueError),
)
"""What `zipfile` raises of bytes that somebody made up."""


def zipped(parts: Mapping[str, bytes]) -> bytes:
    """The archive of files by path."""
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(parts):
            info = zipfile.ZipInfo(path, _EARLIEST)
            info.external_attr = _FILE_MODE
            info.create_system = _UNIX
            archive.writestr(info, parts[path])
    return into.getvalue()


def unzipped(whole: bytes) -> dict[str, bytes]:
    """The files of an archive that `zipped` made. Raises PackageError for all other bytes."""
    if len(whole) > PACKAGE_MAX_BYTES:
        raise PackageError(f"it has {len(whole)} bytes; a package has at most {PACKAGE_MAX_BYTES}")
    parts: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            entries = archive.infolist()
            if len(entries) > FILES_MAX + 10 or sum(entry.file_size for entry in entries) > len(whole):
                raise PackageError("it has more files, or larger ones, than it can hold")
            for entry in entries:
                fault = path_fault(entry.filename)
                if fault is not None or entry.compress_type != zipfile.ZIP_STORED:
                    raise PackageError(fault or f"{entry.filename} is compressed; no file of a package is")
                parts[entry.filename] = archive.read(entry)
    except PackageError:
        raise
    except _UNREADABLE as error:
        raise PackageError(f"it is no package: {error}") from error
    if zipped(parts) != whole:
        raise PackageError("it holds more than its files, or not as a package holds them")
    return parts
