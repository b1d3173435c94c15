"""What a connection is told of its logins."""

from __future__ import annotations

import ssl
import sys

import pytest
from nats.errors import AuthorizationError

from writ.broker import connect


async def test_who_was_let_in_is_refused_for_good_only_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that was started again is up before its gate, and refuses everybody until then: a worker that
    was told so at that moment ended. (One did, in a run of `make chaos`.)"""
    watch = connect.Watch()
    await watch.error(AuthorizationError())
    assert not watch.not_admitted
    monkeypatch.setattr(connect, "REFUSED_S", 0.0)
    assert watch.not_admitted
    await watch.error(ConnectionRefusedError())
    assert not watch.not_admitted, "the broker is away: nobody has refused us"
    await watch.error(AuthorizationError())
    await watch.opened()
    assert not watch.not_admitted


async def test_what_is_wrong_at_a_server_is_told_before_that_another_is_away() -> None:
    watch = connect.Watch()
    wrong = ssl.SSLCertVerificationError("unable to get local issuer certificate")
    for failure in (ConnectionRefusedError(), wrong, ConnectionRefusedError()):
        await watch.error(failure)
    assert await watch.first_failure(3) is wrong
    for reset in (ConnectionResetError(), wrong, ConnectionResetError(), AuthorizationError()):
        await watch.error(reset)
    assert isinstance(await watch.first_failure(3), AuthorizationError), (
        "a refused login can look like a reset"
    )
    for _ in range(2):
        await watch.error(ConnectionRefusedError())
    assert isinstance(await watch.first_failure(2), ConnectionRefusedError)


async def test_a_broker_that_is_away_for_hours_costs_no_memory() -> None:
    """Each try to connect fails with an error that holds its frames; nobody asks for them any more."""
    watch = connect.Watch()
    await watch.opened()
    await watch.broken()
    error = ConnectionRefusedError()
    before = sys.getrefcount(error)
    for _ in range(100):
        await watch.error(error)
    assert sys.getrefcount(error) == before
