"""Principals, grants and tokens as a user meets them: two of them, on one node."""

from __future__ import annotations

import stat
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Result, Shell
else:
    Shell = Any


@pytest.fixture
def bob(node: Shell, tmp_path: Path) -> Bob:
    """A second principal, logged in, beside the owner."""
    return Bob(node, tmp_path)


class Bob:
    """Runs commands as bob, by a saved context."""

    def __init__(self, node: Shell, home: Path) -> None:
        self.node = node
        self._home = str(home)
        self.name = f"bob-{home.name}"
        key = f"{self.name}.nk"
        self.owner("principal", "create", self.name, "--creds-out", key)
        where = self.owner("env", "--json").document
        self.http = where["WRIT_HTTP_URL"]
        words = ("login", "--url", where["NATS_URL"], "--creds", key, "--principal", self.name)
        node.until(lambda: self(*words, "--save", "work").code == 0)
        mode = (home / "writ" / "contexts.json").stat().st_mode
        assert stat.S_IMODE(mode) == stat.S_IMODE((node.directory / key).stat().st_mode) == 0o600

    def owner(self, *words: str) -> Result:
        done = self.node(*words)
        assert done.code == 0, done.err
        return done

    def __call__(self, *words: str, timeout: float = 60, **env: str) -> Result:
        return self.node(*words, timeout=timeout, XDG_CONFIG_HOME=self._home, **env)

    def get(self, path: str, token: str) -> int:
        """The status of a request over HTTP."""
        request = urllib.request.Request(self.http + path, headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as refused:
            return refused.code


def test_what_is_granted_may_be_done_and_nothing_else(bob: Bob) -> None:
    assert bob("whoami", "--json").document["grants"] == []
    denied = bob("jobs", "--queue", "q")
    assert denied.code == 1
    assert "no role of" in denied.err
    assert "[deny.default]" in denied.err
    bob.owner("grant", bob.name, "viewer", "--in", "q", "--reason", "new in the team")
    assert bob("jobs", "--queue", "q").code == 0
    assert "[deny.scope]" in bob("jobs").err
    yes, no = bob("can", "jobs", "q"), bob("can", "redrive", "q", "--json")
    assert (yes.code, yes.out.strip()) == (0, "yes, by viewer.look: viewer in q")
    assert no.code == 1
    assert no.document["rule"] == "deny.default"
    told = bob.owner("audit", "--actor", bob.name, "--refused", "--json").document
    assert [(act["verb"], act["refused"], act["queue"]) for act in told] == [
        ("jobs", "denied", None),
        ("jobs", "denied", "q"),
    ]
    assert told[0]["reason"].endswith("[deny.scope]")
    bob.owner("ungrant", bob.name, "viewer", "--in", "q", "--reason", "left the team")
    assert bob("jobs", "--queue", "q").code == 1


def test_a_role_for_a_time_waits_for_another_person(bob: Bob) -> None:
    asked = bob("elevate", "operator", "--in", "q", "--for", "5", "--reason", "on call", "--json").document
    assert bob("queue", "pause", "q").code == 1
    assert "[deny.default]" in bob("approve-access", bob.name, "1").err
    waiting = bob.owner("principal", "list", "--waiting", "--json").document
    assert [(each["name"], each["proposals"][0]["number"]) for each in waiting] == [(bob.name, 1)]
    bob.owner("approve-access", bob.name, str(asked["proposal"]), "--reason", "agreed")
    (grant,) = bob("whoami", "--json").document["grants"]
    assert (grant["role"], grant["proposed_by"], grant["granted_by"]) == ("operator", bob.name, "owner")
    assert bob("queue", "pause", "q", "--reason", "on call").code == 0
    assert bob("queue", "resume", "q", "--reason", "over").code == 0


def test_an_api_token_is_its_principal_over_http(bob: Bob) -> None:
    token = bob("token", "create", "laptop").out.strip()
    assert token.startswith("writ_")
    assert bob.get("/v1/whoami", token) == 200
    assert bob.get("/v1/jobs?queue=q", token) == 403
    bob.owner("grant", bob.name, "viewer", "--reason", "new in the team")
    assert bob.get("/v1/jobs?queue=q", token) == 200
    assert bob.get("/v1/principals", token) == 403
    assert bob.get("/v1/whoami", token + "x") == 401
    assert [each["token"] for each in bob("token", "list", "--json").document] == ["laptop"]
    assert bob("token", "revoke", "laptop").code == 0
    bob.node.until(lambda: bob.get("/v1/whoami", token) == 401, timeout_s=2)


def test_whoever_is_revoked_can_do_nothing(bob: Bob) -> None:
    token = bob("token", "create", "laptop").out.strip()
    bob.owner("grant", bob.name, "viewer", "--reason", "new in the team")
    assert bob("jobs").code == 0
    bob.owner("principal", "revoke", bob.name, "--reason", "left")
    assert bob("jobs").code != 0
    bob.node.until(lambda: bob.get("/v1/jobs", token) == 401, timeout_s=2)
    assert bob.owner("principal", "show", bob.name, "--json").document["revoked"] == "left"
    bob.owner("principal", "restore", bob.name, "--reason", "came back")
    bob.node.until(lambda: bob("jobs").code == 0)
    bob.node.until(lambda: bob.get("/v1/jobs", token) == 200)


def test_contexts_are_used_and_forgotten(bob: Bob) -> None:
    assert bob("context", "list", "--json").document["current"] == "work"
    assert bob("whoami", "--json").document["name"] == bob.name
    assert bob("context", "use", "-").code == 0
    assert bob("whoami", "--json").document["name"] == "owner"
    assert bob("whoami", "--context", "work", "--json").document["name"] == bob.name
    assert bob("context", "use", "nowhere").code == 1
    assert bob("context", "remove", "work").code == 0
    assert bob("whoami", "--context", "work").code == 1


def test_the_policy_is_shown(writ: Shell) -> None:
    shown = writ("policy", "show")
    assert shown.code == 0
    assert "[operator]" in shown.out
    assert "redrive" in writ("policy", "show", "--json").document["operator"]["jobs"]


def test_what_goes_before_a_context_is_said_when_it_is_taken_into_use(bob: Bob) -> None:
    assert "warning" not in bob("context", "use", "work").err
    url = bob.owner("env", "--json").document["NATS_URL"]
    told = bob("context", "use", "work", NATS_URL=url, WRIT_PRINCIPAL="owner")
    assert told.code == 0
    assert "warning: NATS_URL is set in this shell, and goes before the context" in told.err
    assert "unset NATS_URL WRIT_PRINCIPAL" in told.err


def test_next_steps_name_who_may_help(bob: Bob) -> None:
    assert "by an admin or owner: ask one" in bob("jobs", "--queue", "q").err
    keyless = bob.owner("principal", "create", f"keyless-{bob.name}")
    assert f"cannot log in yet: writ principal add-key keyless-{bob.name} U" in keyless.out
    bob.owner("principal", "revoke", bob.name, "--reason", "left")
    bob.node.until(lambda: "does not admit" in bob("whoami").err)
    told = bob("whoami").err
    assert f"writ principal add-key {bob.name} U" in told
    assert "writ login --url" in told
    assert "writ up" not in told.partition("next:")[2]


def test_a_queue_that_never_was_is_paused_ahead_of_time_and_that_is_said(bob: Bob) -> None:
    assert "ahead of time" in bob.owner("queue", "pause", "nope").out
    assert "ahead of time" in bob.owner("queue", "resume", "nope").out
