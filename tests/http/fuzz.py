"""Runs schemathesis with all its checks against the HTTP API of a node of its own: `make http-fuzz`.

What is given goes to schemathesis, such as `-n 300` for more cases of each operation, or `--seed 7`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

_WRIT: Final = (sys.executable, "-P", "-m", "writ")
_PHASES: Final = "examples,coverage,fuzzing,stateful"


def fuzz(directory: Path, arguments: list[str]) -> int:
    """The exit code of schemathesis, 0 where it found no failure. The node is gone afterwards."""
    up = subprocess.run(
        [*_WRIT, "up", "--detach", "--json", "--dir", str(directory)], check=True, capture_output=True
    )
    try:
        node = json.loads(up.stdout)
        token = Path(node["token_path"]).read_text(encoding="utf-8").strip()
        command = [
            *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{node['http_url']}/openapi.json"),
            *("--header", f"Authorization: Bearer {token}", "--checks", "all", "--no-color"),
        ]
        phases = [] if "--phases" in arguments else ["--phases", _PHASES]
        return subprocess.run([*command, *phases, *arguments], check=False, cwd=directory).returncode
    finally:
        subprocess.run([*_WRIT, "down", "--dir", str(directory)], check=True, capture_output=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="writ-fuzz-") as name:
        sys.exit(fuzz(Path(name) / "node", sys.argv[1:]))
