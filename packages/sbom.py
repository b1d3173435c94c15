"""The bill of materials of a package: CycloneDX 1.5, from its lock file.

Source: https://cyclonedx.org/docs/1.5/json/. It names no time and no random serial number: the same lock file
gives the same document.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

_LINE: Final = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>\S+)(?P<hashes>.*)")
_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def bill_of_materials(name: str, version: str, requirements: str) -> bytes:
    """The document of a process whose dependencies are pinned, one `name==version` a line."""
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": name, "version": version}},
        "components": _components(requirements),
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def _components(requirements: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for line in requirements.replace("\\\n", " ").splitlines():
        match = _LINE.match(line.strip())
        if match is None:
            continue
        # The name of a package as its URL has it: https://github.com/package-url/purl-spec, type pypi.
        name = re.sub(r"[-_.]+", "-", match["name"]).lower()
        purl = f"pkg:pypi/{name}@{match['version']}"
        component: dict[str, Any] = {
            "type": "library",
            "bom-ref": purl,
            "name": match["name"],
            "version": match["version"],
            "purl": purl,
        }
        hashes = _HASH.findall(match["hashes"])
        if hashes:
            component["hashes"] = [{"alg": "SHA-256", "content": each} for each in sorted(hashes)]
        found.append(component)
    return sorted(found, key=lambda each: str(each["bom-ref"]))
