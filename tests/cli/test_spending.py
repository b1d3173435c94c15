"""What models cost and what they would have cost, and jobs run again from their records: by commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Result, Shell

TASKS = """
import time
from writ import Context, task


@task
async def think(n: int, ctx: Context) -> int:
    found = await ctx.step("look", lambda: time.monotonic_ns())
    ctx.usage(model="small", input_tokens=1_000 * n, output_tokens=10)
    if n == 4:
        raise ValueError("no")
    return found


@task
async def dream(ctx: Context) -> dict[str, float]:
    await ctx.step("look", lambda: 1)
    return {"at": time.time()}
"""
FILE = """
[queues.brain]
retry = {max_attempts = 2, initial_interval_s = 0.05}

[prices.small]
input = 0.25
output = 1.25

[[prices.large]]
input = 3
output = 15
[[prices.large]]
from = 2127-01-01T00:00:00Z
input = 2
output = 10
"""
SUPPOSED = """
[prices.small]
input = 1
output = 5

[alerts.dying]
measure = "dead_letters"
above = 0

[alerts.spend]
measure = "spend_usd"
above = 0.005
queue = "brain"

[alerts.quiet]
measure = "backlog"
above = 1000
"""


def done(shown: Result) -> Any:
    assert shown.code == 0, shown.err
    return shown.document


@pytest.fixture(scope="module")
def brain(node: Shell) -> Iterator[Shell]:
    """The node, with a worker that uses tokens, once four jobs have ended."""
    for name, text in (("brain.py", TASKS), ("brain.toml", FILE), ("supposed.toml", SUPPOSED)):
        (node.directory / name).write_text(text, encoding="utf-8")
    assert node("apply", "brain.toml").code == 0
    worker = node.start("worker", "brain.py", "--queue", "brain", "--name", "w2")
    jobs = "\n".join(json.dumps({"task": "think", "input": {"n": n}, "id": f"t{n}"}) for n in range(1, 5))
    node("submit", "brain", "--file", "-", "--wait", input=jobs)
    yield node
    worker.terminate()
    worker.communicate(timeout=30)


# --- prices -----------------------------------------------------------------------------------------------


def test_prices_are_set_listed_and_refused(node: Shell) -> None:
    assert "no prices" in node("price", "list", "--model", "nobody").out
    shown = done(node("price", "set", "m", "--input", "0.25", "--output", "1.25", "--json"))
    assert [(p["model"], p["input_microusd"], p["output_microusd"]) for p in shown] == [
        ("m", 250_000, 1_250_000)
    ]
    later = ("--from", "2127-01-01T00:00:00Z", "--reason", "as announced")
    assert node("price", "set", "m", "--input", "0.2", "--output", "1", *later).code == 0
    both = done(node("price", "list", "--model", "m", "--json"))
    assert [p["input_microusd"] for p in both] == [250_000, 200_000]
    out = node("price", "list").out.splitlines()
    assert out[0].split() == ["MODEL", "FROM", "INPUT", "$/M", "OUTPUT", "$/M"]
    assert [line.split()[2:] for line in out[1:] if line.startswith("m ")] == [["0.25", "1.25"], ["0.2", "1"]]
    for wrong in ("cheap", "-1", "0.0000001", "nan"):
        refused = node("price", "set", "m", f"--input={wrong}", "--output", "1")
        assert (refused.code, refused.out) == (2, "")
        assert f"--input {wrong!r} is no amount of US dollars" in refused.err
    assert node("price", "set", "m", "--input", "1", "--output", "1", "--from", "soon").code == 2
    assert done(node("price", "list", "--model", "m", "--json")) == both
    verbs = [(each["verb"], each["reason"]) for each in done(node("audit", "--json"))]
    assert ("set_price", "as announced") in verbs


def test_a_file_of_prices_is_applied_once(brain: Shell) -> None:
    again = done(brain("apply", "brain.toml", "--json"))
    found = {(each["kind"], each["name"], each["change"]) for each in again if each["kind"] == "price"}
    assert found == {("price", "small", "unchanged"), ("price", "large", "unchanged")}
    (brain.directory / "dearer.toml").write_text("[prices.other]\ninput = 0.5\noutput = 1\n")
    (new,) = [e for e in done(brain("apply", "dearer.toml", "--json")) if e["kind"] == "price"]
    assert (new["change"], new["declared"]) == ("new", True)
    (brain.directory / "dearer.toml").write_text("[prices.other]\ninput = 0.75\noutput = 1\n")
    planned = brain("apply", "dearer.toml", "--dry-run").out
    assert "~ price other: changed" in planned
    assert "input $/M: 0.5 -> 0.75" in planned
    assert len(done(brain("price", "list", "--model", "other", "--json"))) == 1, "a dry run sets nothing"
    assert brain("apply", "dearer.toml").code == 0
    assert [p["input_microusd"] for p in done(brain("price", "list", "--model", "other", "--json"))] == [
        500_000, 750_000
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[prices.x]\ninput = -1\noutput = 1", "prices.x.input: "),
        ("[prices.x]\ninput = 1", "prices.x.output: "),
        ("[prices.x]\ninput = 0.0000001\noutput = 1", "finer than a millionth"),
        (
            "[[prices.x]]\ninput = 1\noutput = 1\n[[prices.x]]\nfrom = 3\ninput = 1\noutput = 1",
            "prices.x (2 of 2)",
        ),
        ("[alerts.x]\nmeasure = 'load'\nabove = 1", "alerts.x.measure: "),
        ("[alerts.x]\nmeasure = 'backlog'\nabove = 1", "replay --what-if"),
        ("[price.x]\ninput = 1", "did you mean prices?"),
    ],
)
def test_a_bad_table_is_named(text: str, said: str, writ: Shell) -> None:
    (writ.directory / "bad.toml").write_text(text, encoding="utf-8")
    shown = writ("apply", "bad.toml")
    assert (shown.code, shown.out) == (2, "")
    assert said in shown.err


def test_a_tenants_policy_is_applied_and_a_queue_overrides_it(node: Shell) -> None:
    (node.directory / "tenant.toml").write_text(
        "[tenant]\narchive_after_s = 604800\nerasable = true\n[queues.plain]\nerasable = false\n"
    )
    new, queue = [e for e in done(node("apply", "tenant.toml", "--json")) if e["declared"]]
    assert (new["kind"], new["name"], new["change"]) == ("tenant", "default", "new")
    assert new["fields"]["erasable"] == {"old": False, "new": True}
    assert (queue["kind"], queue["fields"]["erasable"]) == ("queue", {"old": None, "new": False})
    assert "nothing to change" in node("apply", "tenant.toml").out
    sealed = {}
    for name in ("plain", "other"):
        node("submit", name, "hello", '{"name": "x"}', "--id", f"in-{name}", "--delay", "3600")
        (record, *_) = done(node("job", f"in-{name}", "--json"))["records"]
        sealed[name] = record["record"]["events"][0]["data"]["input"]["key"] != "none"
    assert sealed == {"plain": False, "other": True}
    (node.directory / "tenant.toml").write_text("[tenant]\n")
    assert "erasable: true -> false" in node("apply", "tenant.toml").out
    wrong = node("apply", "-", input="[tenant]\nerase = true\n")
    assert (wrong.code, "tenant.erase: " in wrong.err) == (2, True)


# --- what if ----------------------------------------------------------------------------------------------


def test_other_prices_and_alerts_are_told_from_the_log(brain: Shell) -> None:
    found = done(brain("replay", "--what-if", "supposed.toml", "--json"))
    cost = {each["key"]: each["would_be"]["cost_microusd"] for each in found["otherwise"]}
    assert cost == {f"brain~t{n}": (2 if n == 4 else 1) * (1_000 * n + 50) for n in range(1, 5)}
    (group,) = found["spending"]
    assert (group["queue"], group["task"], group["model"], group["was"]["usages"]) == (
        "brain",
        "think",
        "small",
        5,
    )
    assert group["was"]["cost_microusd"] * 4 == pytest.approx(group["would_be"]["cost_microusd"], abs=20)
    dying, spend, quiet = found["alerts"]
    (died,) = dying["firings"]
    end = done(brain("job", "t4", "--json"))["records"][-1]["seq"]
    assert (died["queue"], died["peak"], died["records"]) == ("brain", 1, [end])
    assert spend["firings"][0]["peak"] == found["would_be"]["cost_microusd"] / 1e6
    assert quiet["firings"] == []
    text = brain("replay", "--what-if", "supposed.toml").out
    assert "4 jobs of" in text
    assert "with other prices for small" in text
    assert "alert dying (dead_letters above 0) would have fired 1 time" in text
    (brain.directory / "none.toml").write_text('[schedules.s]\nqueue = "q"\ntask = "t"\nevery_s = 5\n')
    nothing = brain("replay", "--what-if", "none.toml")
    assert (nothing.code, "nothing to suppose" in nothing.err) == (2, True)


# --- reproduce --------------------------------------------------------------------------------------------


def test_a_job_is_reproduced_from_its_record(brain: Shell) -> None:
    shown = brain("reproduce", "t1")
    assert shown.code == 0, shown.err
    assert "reproduces t1: completed, 1 step and 0 calls of tools answered" in shown.out
    assert "the two runs do not differ" in shown.out
    told = done(brain("reproduce", "t4", "--json"))
    assert (told["reproduces"], told["state"], told["steps"], told["differences"]) == ("t4", "dead", 1, [])
    again = done(brain("job", told["job"], "--json"))
    assert (again["queue"], again["error"]["text"].split("\n")[0]) == ("brain", "no")


def test_a_clock_read_is_pointed_at_and_the_exit_code_says_so(brain: Shell) -> None:
    brain("submit", "brain", "dream", "{}", "--id", "d", "--wait")
    shown = brain("reproduce", "d")
    assert (shown.code, "1 difference" in shown.out, "output.at" in shown.out) == (1, True, True)
    (difference,) = json.loads(brain("reproduce", "d", "--json").out)["differences"]
    assert difference["where"] == "output.at"


def test_what_has_not_ended_or_is_not_there_is_not_reproduced(brain: Shell) -> None:
    assert brain("reproduce", "nobody").code == 1
    brain("submit", "brain", "think", '{"n": 1}', "--id", "later", "--delay", "3600")
    waits = brain("reproduce", "later")
    assert (waits.code, waits.out) == (1, "")
    assert waits.err.startswith("writ: job later is scheduled; a job can be reproduced when it has ended")
