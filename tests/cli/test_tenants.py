"""`writ tenant` and `writ partitions`: what the people of a node see to, and those of a tenant meet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .conftest import Shell
else:
    Shell = Any


def test_a_tenant_is_made_given_quotas_and_held_to_them(node: Shell) -> None:
    assert node("tenant", "create", "acme", "--creds-out", "acme.nk").code == 0
    again = node("tenant", "create", "acme", "--key", "U" + "A" * 55)
    assert (again.code, "there is a tenant acme" in again.err) == (1, True)
    allowed = ("--jobs", "2", "--rate", "100", "--burst", "50", "--budget", "0.3", "--reserve", "0.1")
    told = node("tenant", "set", "acme", *allowed, "--reason", "as agreed", "--json").document
    assert told["quotas"]["budget"] == {"limit_microusd": 300_000, "reserve_microusd": 100_000}
    told = node("tenant", "set", "acme", "--rate", "none", "--period", "month", "--json").document
    assert (told["quotas"]["jobs"], told["quotas"].get("submits_per_s")) == (2, None)
    assert told["quotas"]["budget"]["period"] == "month"
    assert told["version"] == 2
    url = node("env", "--json").document["NATS_URL"]
    acme = ("--url", url, "--creds", "acme.nk", "--tenant", "acme", "--principal", "owner")
    node.until(lambda: node("whoami", *acme).code == 0)
    assert node("submit", "q", "t", "--reserve", "0.5", *acme).code == 0
    for job in ("a", "b", "c"):
        node("submit", "q", "t", "--id", job, *acme)
    refused = node("audit", "--refused", "--json", *acme).document
    assert "its quota is 2 [quota.jobs]" in refused[0]["reason"]
    assert "an attempt reserves $0.50 [quota.budget]" in refused[1]["reason"]
    shown = node("tenant", "show", *acme).out
    assert "2 of 2" in shown
    assert node("tenant", "list", *acme).code == 1
    assert {each["name"] for each in node("tenant", "list", "--json").document} >= {"acme", "default"}
    # Nothing fits into what is left: that is told where somebody looks.
    assert node("tenant", "set", "acme", "--budget", "0.1", "--reserve", "0.1").code == 0
    assert node("tenant", "set", "acme", "--budget", "0").code == 0
    assert "The budget lets nothing start: of the tenant's budget of $0.00" in node("explain", "a", *acme).out
    assert "nothing starts" in node("status", *acme).out
    assert "nothing starts" in node("tenant", "show", *acme).out


def test_what_cannot_be_is_refused_before_anything_is_sent(node: Shell) -> None:
    for words, said in (
        (("--budget", "5"), "--budget needs --reserve"),
        (("--reserve", "0.1"), "has no budget yet"),
        (("--jobs", "many"), "is no whole number"),
        (("--rate", "0"), "is no rate above 0"),
        (("--budget", "0.0000001", "--reserve", "1"), "to the millionth"),
    ):
        told = node("tenant", "set", "default", *words)
        assert told.code == 2, words
        assert said in told.err
    assert "there is no tenant nobody" in node("tenant", "set", "nobody", "--jobs", "1").err


def test_the_partitions_are_shown_and_a_shard_goes_where_there_is_one(node: Shell) -> None:
    """A node leads one partition: all shards are in it, and there is no other to move one to."""
    told = node("partitions", "--json").document
    assert (told["partitions"], set(told["shards"]), len(told["shards"])) == (1, {0}, 256)
    refused = node("partitions", "move", "invoices", "--to", "1")
    assert (refused.code, "there is no partition 1" in refused.err) == (1, True)
    other = node("partitions", "move", "invoices", "--of", "acme", "--to", "0")
    assert (other.code, "is in partition 0 already" in other.err) == (1, True)
