"""The verifier that needs Python alone: its signatures against RFC 8032 and another library, its command."""

from __future__ import annotations

import ast
import random
import sys
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from writ.orchestrator.replay import offline

# RFC 8032, section 7.1: public key, message, signature.
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("public", "text", "signature"), VECTORS)
def test_the_published_signatures_hold_and_no_neighbour_of_them(
    public: str, text: str, signature: str
) -> None:
    key, said, signed = (bytes.fromhex(each) for each in (public, text, signature))
    assert offline.signature_holds(key, said, signed)
    for place in (0, 31, 32, 63):
        other = bytearray(signed)
        other[place] ^= 1
        assert not offline.signature_holds(key, said, bytes(other))
    assert not offline.signature_holds(key, said + b"x", signed)
    assert not offline.signature_holds(bytes(32), said, signed)


def test_signatures_of_another_library_hold() -> None:
    draw = random.Random(1)
    for _ in range(8):
        secret = SigningKey(draw.randbytes(32))
        text = draw.randbytes(draw.randrange(200))
        signed = secret.sign(text).signature
        assert offline.signature_holds(secret.verify_key.encode(), text, signed)
        scalar = int.from_bytes(signed[32:], "little") + offline.ORDER
        again = signed[:32] + scalar.to_bytes(32, "little")
        assert not offline.signature_holds(secret.verify_key.encode(), text, again)


@pytest.mark.parametrize("length", [0, 31, 33, 63, 65])
def test_what_has_not_the_length_of_a_signature_is_none(length: int) -> None:
    key = bytes.fromhex(VECTORS[0][0])
    assert not offline.signature_holds(key, b"", bytes(length))
    assert not offline.signature_holds(bytes(length), b"", bytes(64))


def test_it_imports_nothing_but_the_standard_library() -> None:
    tree = ast.parse(Path(offline.__file__).read_text("utf-8"))
    names = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name).split(".")[0]  # type: ignore[union-attr]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert names <= sys.stdlib_module_names


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"writ_proof": 2}', "\x00", "[" * 5_000, '"a"'])
def test_what_is_no_proof_is_refused_in_words(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "proof.json"
    path.write_text(content)
    public = bytes.fromhex(VECTORS[0][0])
    key = f"any+{offline.id_of('any', public).hex()}+AddamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea"
    assert offline.main([str(path), "--key", key]) == 2
    assert "cannot be checked:" in capsys.readouterr().err
