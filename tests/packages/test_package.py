"""Packages: the same sources give the same file, and whatever was changed in one is refused."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from writ.broker.jwt import KeyKind, Signer
from writ.packages import BuildError, PackageError, ProjectError, build, open_package, read_project
from writ.packages.archive import zipped
from writ.packages.manifest import Signature, digest_of, signed_text
from writ.packages.project import raised, write_version

SIGNER = Signer(KeyKind.USER, bytes(range(32)))
OTHER = Signer(KeyKind.USER, bytes(32))
PROJECT = """\
name = "invoices"
version = "0.3.1"
kind = "agent"
modules = ["invoices"]
dependencies = ["cronsim>=2"]
[entry_points]
main = "invoices.extract"
[prompts]
extract = "prompts/extract.md"
[tools]
rates = "tools/rates.json"
[models]
extract = "small-2026-09"
[indexes]
suppliers = "2026-11-02"
"""


def project(folder: Path) -> Path:
    for path, text in {
        "process.toml": PROJECT,
        "requirements.lock": f"cronsim==2.8 --hash=sha256:{'a' * 64}\n",
        "invoices.py": "def extract(): ...\n",
        "prompts/extract.md": "Read the sum.\n",
        "tools/rates.json": '{"type": "object"}\n',
        "__pycache__/invoices.py": "no part of it",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def built(folder: Path, signer: Signer = SIGNER) -> bytes:
    return build(folder, signer.public, signer.sign)


def test_the_same_sources_give_the_same_bytes_wherever_and_whenever(tmp_path: Path) -> None:
    one, two = project(tmp_path / "one"), project(tmp_path / "elsewhere" / "two")
    os.utime(two / "invoices.py", (1, 1))
    (two / "invoices.py").chmod(0o600)
    assert built(one) == built(two)


def test_another_byte_or_another_signer_shows(tmp_path: Path) -> None:
    folder = project(tmp_path)
    first = open_package(built(folder))
    other = open_package(built(folder, OTHER))
    (folder / "prompts/extract.md").write_text("Read the sum!\n")
    changed = open_package(built(folder))
    assert first.digest == other.digest != changed.digest
    assert (first.key, other.key) == (SIGNER.public, OTHER.public)


def test_a_package_tells_all_that_it_is_made_of(tmp_path: Path) -> None:
    package = open_package(built(project(tmp_path)))
    manifest = package.manifest
    assert (manifest.name, manifest.version, manifest.kind) == ("invoices", "0.3.1", "agent")
    assert manifest.models == {"extract": "small-2026-09"}
    assert manifest.indexes == {"suppliers": "2026-11-02"}
    assert manifest.prompts == {"extract": "code/prompts/extract.md"}
    assert sorted(package.files) == ["invoices.py", "process.toml", "prompts/extract.md", "tools/rates.json"]
    bill = json.loads(package.sbom)
    assert bill["bomFormat"] == "CycloneDX"
    assert [each["purl"] for each in bill["components"]] == ["pkg:pypi/cronsim@2.8"]
    package.unpack(tmp_path / "unpacked")
    assert (tmp_path / "unpacked/prompts/extract.md").read_text() == "Read the sum.\n"


def test_no_changed_byte_passes(tmp_path: Path) -> None:
    """Must hold: a tampered package is refused. One bit in each of its bytes, and it is none any more."""
    whole = built(project(tmp_path))
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1
        with pytest.raises(PackageError):
            open_package(bytes(changed))
    for cut in (b"", whole[:-1], whole + b"\n", whole[len(whole) // 2 :]):
        with pytest.raises(PackageError):
            open_package(cut)


def test_one_made_up_anew_is_another_release(tmp_path: Path) -> None:
    """A forger can make a whole package of his own: with another digest, and another signature."""
    folder = project(tmp_path)
    wanted = open_package(built(folder)).digest
    (folder / "invoices.py").write_text("def extract(): steal()\n")
    forged = built(folder, OTHER)
    with pytest.raises(PackageError, match="and not"):
        open_package(forged, digest=wanted)
    with pytest.raises(PackageError, match="does not count here"):
        open_package(forged, trusted=[SIGNER.public])


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("code/../../evil.py", "leaves its folder"),
        ("/etc/x", "no relative path"),
        ("a\\b", "no relative path"),
    ],
)
def test_paths_that_lead_out_are_refused(path: str, why: str) -> None:
    with pytest.raises(PackageError, match=why):
        open_package(zipped({path: b""}))


def test_files_that_the_manifest_does_not_have_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(BytesIO(built(project(tmp_path)))) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with pytest.raises(PackageError, match=r"code/more\.py is not in its manifest"):
        open_package(zipped({**parts, "code/more.py": b""}))
    del parts["code/invoices.py"]
    with pytest.raises(PackageError, match=r"code/invoices\.py is missing"):
        open_package(zipped(parts))


def test_a_manifest_that_says_what_files_are_not_is_refused(tmp_path: Path) -> None:
    """Signed by somebody whose signature counts, and still refused: its files are others."""
    with zipfile.ZipFile(BytesIO(built(project(tmp_path)))) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["MANIFEST.json"] = parts["MANIFEST.json"].replace(b'"size_bytes": 19', b'"size_bytes": 18')
    digest = digest_of(parts["MANIFEST.json"])
    parts["SIGNATURE.json"] = Signature(SIGNER.public, SIGNER.sign(signed_text(digest))).encoded()
    with pytest.raises(PackageError, match=r"code/invoices\.py is not the file that was packaged"):
        open_package(zipped(parts), digest=digest)


def test_dependencies_are_locked(tmp_path: Path) -> None:
    folder = project(tmp_path)
    (folder / "requirements.lock").write_text("cronsim>=2.8\n")
    with pytest.raises(BuildError, match=r"does not pin 'cronsim>=2\.8'"):
        built(folder)
    (folder / "requirements.lock").unlink()
    with pytest.raises(BuildError, match="writ lock"):
        built(folder)


def test_links_out_of_the_project_are_refused(tmp_path: Path) -> None:
    folder = project(tmp_path / "project")
    (tmp_path / "outside.py").write_text("secret = 1\n")
    (folder / "inside.py").symlink_to(tmp_path / "outside.py")
    with pytest.raises(ProjectError, match="leads out of the project"):
        built(folder)


@pytest.fixture
def committed(tmp_path: Path) -> Path:
    """A project in a folder of a repository, with a file beside its own; all of it is in a commit."""
    folder = project(tmp_path / "invoices")
    (folder / "NOTES.md").write_text("no part of the package\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words], cwd=tmp_path, check=True
        )
    return folder


def test_the_commit_is_told_and_files_that_are_no_sources_change_nothing(committed: Path) -> None:
    first = built(committed)
    manifest = open_package(first).manifest
    assert manifest.commit is not None
    assert not manifest.modified
    (committed / "report.html").write_text("what an evaluation found")
    (committed / "NOTES.md").write_text("more\n")
    assert built(committed) == first


@pytest.mark.parametrize("changed", ["edited", "added", "removed", "staged"])
def test_what_differs_from_the_commit_is_told(committed: Path, changed: str) -> None:
    code = committed / "invoices.py"
    if changed == "removed":
        code.unlink()
    elif changed == "added":
        (committed / "more.py").write_text("def more(): ...\n")
    else:
        code.write_text("def extract(): return 2\n")
    if changed == "staged":
        subprocess.run(["git", "add", "."], cwd=committed, check=True)
    assert open_package(built(committed)).manifest.modified


@pytest.mark.parametrize(("part", "next_"), [("major", "1.0.0"), ("minor", "0.4.0"), ("patch", "0.3.2")])
def test_versions_are_raised_in_their_line(tmp_path: Path, part: str, next_: str) -> None:
    folder = project(tmp_path)
    write_version(folder, raised("0.3.1", part))
    assert read_project(folder).version == next_
    assert (folder / "process.toml").read_text().replace(next_, "0.3.1") == PROJECT
