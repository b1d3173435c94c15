"""What the gates say of a release, over HTTP: for pipelines as JSON, for pages as a picture."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

if TYPE_CHECKING:
    from .conftest import Api

GATE = '[gates.g]\nprocess = "shown"\nscope = "bills/*"\ndrills = ["restore"]\n'
RELEASE = "/v1/processes/shown/releases"


@pytest.fixture
def published(api: Api) -> str:
    """The digest of a release that lacks a drill in one folder; there once for all tests here."""
    if not (api.directory / "shown").exists():
        api.writ("init", "shown", "--type", "job")
        (api.directory / "gates.toml").write_text(GATE)
        api.writ("gate", "apply", "gates.toml")
        api.writ("publish", "--folder", "shown")
        api.writ("release", "promote", "shown@candidate", "--reason", "it is needed", "--scope", "mail")
    (process,) = json.loads(api.writ("release", "list", "shown", "--json").stdout)
    (digest,) = process["releases"]
    return str(digest)


def test_a_pipeline_reads_the_verdict_of_the_gates(api: Api, published: str) -> None:
    path = f"{RELEASE}/candidate/status"
    free = api.get(path, scope="mail")
    assert (free.document["outcome"], free.document["digest"]) == ("pass", published)
    assert free.document["aliases"] == ["live", "candidate"]
    missing = api.get(path, scope="bills/*").document
    assert missing["outcome"] == "inconclusive", "what was never run is no pass"
    assert [each["check"] for each in missing["checks"]] == ["may run", "drill restore"]
    position = int(free.headers["writ-position"])
    api.submit("unrelated", "hello")
    again = api.ask("GET", f"{path}?scope=mail", headers={"If-None-Match": free.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    assert int(again.headers["writ-position"]) > position, "the log has gone on, and the verdict stands"
    assert api.get(f"{RELEASE}/9.9.9/status").is_problem(404)


def test_the_badge_is_an_svg_that_says_the_same(api: Api, published: str) -> None:
    for scope, verdict in (("mail", "pass"), ("bills/*", "inconclusive")):
        says = f"shown@candidate: 0.1.0 {verdict}"
        badge = api.get(f"{RELEASE}/candidate/badge", scope=scope)
        assert (badge.status, badge.headers["content-type"]) == (200, "image/svg+xml")
        drawn = ElementTree.fromstring(badge.body)
        assert drawn.get("aria-label") == says
        assert [each.text for each in drawn.iter("{http://www.w3.org/2000/svg}text")] == says.split(": ")
        same = api.ask(
            "GET",
            f"{RELEASE}/candidate/badge?scope={scope.replace('/', '%2F')}",
            headers={"If-None-Match": badge.headers["etag"]},
        )
        assert same.status == 304


def test_nobody_sees_it_who_has_not_said_who_they_are(api: Api, published: str) -> None:
    for what in ("status", "badge"):
        assert api.ask("GET", f"{RELEASE}/candidate/{what}", token=None).is_problem(401)


def test_the_command_line_exits_as_a_pipeline_wants(api: Api, published: str) -> None:
    def status(*words: str, ok: bool = False) -> int:
        return api.writ("release", "status", "shown@candidate", *words, ok=ok).returncode

    assert status("--scope", "mail", "--badge", "b.svg", ok=True) == 0
    assert (api.directory / "b.svg").read_bytes().startswith(b"<svg ")
    assert status("--scope", "bills/*") == 4
    api.writ("release", "freeze", "shown@candidate", "--reason", "looked at")
    try:
        assert status("--scope", "mail") == 1
    finally:
        api.writ("release", "unfreeze", "shown@candidate", "--reason", "seen")
