"""Keys of several processes in one file: leaders of the partitions of a node share a vault."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from writ.broker.vault import Vault

_COUNT = 2_000
_MAKES = f"""
import sys
from pathlib import Path
from writ.broker.vault import Vault

vault = Vault(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
keys = [vault.new(f"subject-{{number % 3}}" if number % 2 else None) for number in range({_COUNT})]
for key in keys:
    print(key, vault.seal(key, b"content").digest)
vault.sync()
"""


def test_no_key_is_lost_where_two_processes_make_keys_at_once(tmp_path: Path) -> None:
    """Must hold: what was sealed can be opened, and a subject has one tag, whoever was first."""
    path = tmp_path / "vault"
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", _MAKES, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "ready\n"
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("go\n")
        maker.stdin.flush()
    made = [line.split() for maker in makers for line in maker.communicate()[0].splitlines()]
    vault = Vault(path)
    assert len({key for key, _ in made}) == 2 * _COUNT
    assert all(vault.seal(key, b"content").digest == digest for key, digest in made)
    assert sum(len(vault.of(f"subject-{number}")) for number in range(3)) == _COUNT
    vault.close()
