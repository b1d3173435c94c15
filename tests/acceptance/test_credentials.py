"""Must hold: secrets never appear in events, nor anywhere else but in the file of their own, with mode 0600.

A node is used as people use it, with every kind of credential; then all that it keeps and all that it has
said is searched for each of them.
"""

from __future__ import annotations

import gzip
import re
import stat
import zlib
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.http.conftest import Api

_SEED = re.compile(rb"S[A-Z2-7]{57}|SU[A-Z2-7]{56}")
MARK = "a word that is no secret"


@pytest.fixture
def used(tmp_path: Path) -> Iterator[Api]:
    """A node of which everything has been asked that takes or makes a credential."""
    api = Api(tmp_path)
    try:
        api.up("--search", "--checkpoints", str(tmp_path / "copies"))
        yield api
    finally:
        api.writ("down", ok=False)


def _forms(secret: bytes) -> set[bytes]:
    """A secret as it might stand somewhere."""
    return {secret, b64encode(secret), urlsafe_b64encode(secret).rstrip(b"="), secret.hex().encode()}


def _contents(directory: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file below a directory, and what is packed in it."""
    for path in sorted(directory.rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        content = path.read_bytes()
        yield path, content
        if content.startswith(b"\x1f\x8b"):
            try:
                yield path, gzip.decompress(content)
            except (OSError, zlib.error, EOFError):
                continue


def _found(directory: Path, secret: bytes) -> list[Path]:
    forms = _forms(secret)
    return sorted({path for path, content in _contents(directory) if any(form in content for form in forms)})


def test_no_credential_stands_anywhere_but_in_its_own_file(used: Api, tmp_path: Path) -> None:
    api = used
    said: list[str] = []

    def writ(*words: str, ok: bool = True) -> str:
        done = api.writ(*words, ok=ok)
        said.append(done.stderr)
        return done.stdout

    secrets: dict[str, bytes] = {"the owner's token": api.token.encode()}
    said.append(writ("principal", "create", "bob", "--creds-out", "bob.nk"))
    said.append(writ("grant", "bob", "operator", "--reason", "to try"))
    laptop = writ("token", "create", "laptop", "--for", "bob").strip().splitlines()[0]
    secrets["an API token"] = laptop.encode()
    wrong = "writ_" + "w" * 43
    for token in (api.token, laptop):
        got = api.ask("POST", "/v1/session", {"token": token}, token=None)
        assert got.status == 201
        cookie, csrf = got.headers["set-cookie"].split(";")[0], got.document["csrf"]
        secrets[f"session {got.document['session']}"] = cookie.partition("=")[2].encode()
        secrets[f"the word of {got.document['session']}"] = csrf.encode()
        own = {"Cookie": cookie, "Writ-CSRF": csrf, "Origin": f"http://127.0.0.1:{api.port}"}
        job = {"task": "t", "input": MARK}
        said.append(str(api.ask("POST", "/v1/queues/q/jobs", job, token=None, headers=own).body))
        said.append(str(api.ask("POST", "/v1/nothing", {}, token=None, headers=own).body))
    # What fails is told of, too: the words of it are not to hold what was shown.
    said += [str(api.ask("GET", "/v1/jobs", token=wrong).body)]
    said += [str(api.ask("POST", "/v1/session", {"token": wrong}, token=None).body)]
    secrets["a token that is nobody's"] = wrong.encode()
    writ("whoami", "--url", str(api.info["url"]), "--creds", "bob.nk", "--principal", "bob")
    writ("jobs", "--url", str(api.info["url"]), "--creds", "bob.nk", "--principal", "ann", ok=False)
    writ("token", "revoke", "laptop", "--for", "bob")
    said.append(writ("audit", "checkpoint"))
    for path in ("/metrics", "/v1/log?limit=500", "/v1/audit?limit=500", "/v1/principals", "/v1/status"):
        said.append(api.ask("GET", path).body.decode())
    writ("replay", "--export", "everything.bundle.gz")

    api.until(lambda: MARK in str(api.get("/v1/jobs").document))
    keys: dict[Path, list[bytes]] = _seeds(tmp_path)
    assert len(keys) >= 8, sorted(keys)
    for home, seeds in keys.items():
        secrets |= {f"seed {n} of {home.name}": seed for n, seed in enumerate(seeds)}
    writ("down")

    homes: dict[bytes, Any] = {seed: path for path, seeds in keys.items() for seed in seeds}
    homes[api.token.encode()] = Path(api.info["token_path"])
    for what, secret in secrets.items():
        places = [path for path in _found(tmp_path, secret) if path != homes.get(secret)]
        assert not places, f"{what} stands in {places}"
        assert not any(secret.decode() in text for text in said), f"{what} was said"
    for home in set(homes.values()):
        assert stat.S_IMODE(home.stat().st_mode) == 0o600, home
    places = _found(tmp_path, MARK.encode())
    assert any(path.suffix == ".blk" for path in places), "the search finds what the broker has stored"
    assert any(path.suffix == ".gz" for path in places), "and what is packed"


def _seeds(directory: Path) -> dict[Path, list[bytes]]:
    """The seeds of NKeys, by the files that hold nothing but keys."""
    found: dict[Path, list[bytes]] = {}
    for path in sorted([*directory.rglob("*.nk"), *directory.rglob("*.creds"), *directory.rglob("*.key")]):
        seeds = _SEED.findall(path.read_bytes()) or [path.read_bytes().strip()]
        found[path] = seeds
    return found
