"""A worker that holds one release: `serve.py FOLDER DIGEST`, with the environment that `writ env` names."""

from __future__ import annotations

import sys
from pathlib import Path

from writ import Worker

if __name__ == "__main__":
    folder, digest = sys.argv[1:]
    Worker("invoices", str(Path(folder, "extract.py")), releases=[digest]).run_sync()
