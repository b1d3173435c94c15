"""What a connection is told of its logins."""

from __future__ import annotations

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
