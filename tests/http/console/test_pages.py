"""The console's pages without a browser: what they hold, what they withhold, and that they stay small."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from writ.console.site import POLICY

from .visitors import (
    HOSTILE_PAGES,
    JOB,
    ONE_LINE,
    PAGES,
    WORKER,
    Visitor,
    edited,
    form_fields,
    seen,
    token_of,
    words,
)

if TYPE_CHECKING:
    from tests.http.conftest import Api

PAGE_MAX_BYTES = 200_000
SOME = 350
ACTED_ON = ("job", "waiting", "queue", "schedule", "worker", "process", "release")
"""Pages of one thing that something can be done to."""

ODD = re.compile("[\x00-\x08\x0b-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]")
"""What cannot be seen, or turns text around."""


@pytest.mark.parametrize("name", PAGES)
def test_each_page_is_there_under_a_strict_policy(owner: Visitor, name: str) -> None:
    got = owner.get(PAGES[name])
    assert got.status == 200, got.body
    assert got.headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert got.headers["cache-control"] == "no-store"
    page = seen(got.body)
    for tag, attrs in page.elements:
        assert "style" not in attrs, "no style stands within a page"
        assert not [each for each in attrs if each.startswith("on")], "nor a script"
        assert tag != "style"
        for where in ("href", "src", "action", "hx-get"):
            assert (attrs.get(where) or "/").startswith(("/", "#")), f"{tag} leads elsewhere: {attrs[where]}"
        if tag == "script":
            assert attrs.get("src"), "scripts are files of ours"


@pytest.mark.parametrize("name", HOSTILE_PAGES)
def test_hostile_names_and_content_are_text_on_each_page(owner: Visitor, name: str) -> None:
    """Must hold: script, markup, control and bidirectional characters, and long lines are shown as text."""
    got = owner.get(HOSTILE_PAGES[name])
    assert got.status in (200, 404, 422), got.body
    assert not ODD.search(got.body.decode())
    assert len(got.body) < PAGE_MAX_BYTES
    page = seen(got.body)
    scripts = [attrs for tag, attrs in page.elements if tag == "script"]
    assert all((each.get("src") or "").startswith("/console/static/") for each in scripts)
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert not [attrs for _, attrs in page.elements if "onerror" in attrs]
    text = "".join(page.text)
    if name in ("job", "dead", "compare"):
        assert "document.title='owned'" in text
        assert "⟨U+202E⟩" in text
        assert "␇" in text or "\\u0007" in text
        assert "49" not in text.split("owned")[1][:60], "nothing is worked out"
    if name == "line":
        assert "more characters" in text


def test_what_is_left_out_of_a_page_is_to_be_had_whole(owner: Visitor) -> None:
    got = owner.get("/console/queues/mail/jobs/line/content/input")
    assert got.headers["content-disposition"].startswith("attachment")
    assert got.headers["content-type"].startswith("text/plain")
    assert ONE_LINE in got.body.decode()
    assert owner.get("/console/queues/mail/jobs/line/content/secrets").status == 404
    assert owner.get(f"{JOB}/bundle").body.startswith(b"{")


def test_nobody_sees_anything_before_signing_in(shop: Api) -> None:
    nobody = Visitor(shop)
    for path in (*PAGES.values(), "/console/live", "/console/static/../jobs"):
        got = nobody.get(path)
        assert got.status in (303, 404), path
        assert b"inv-0" not in got.body
    got = nobody.get("/console/jobs?state=dead")
    assert got.headers["location"] == "/console/sign-in?to=%2Fconsole%2Fjobs%3Fstate%3Ddead"
    assert nobody.sign_in("wrong").status == 401
    for away in ("https://elsewhere.example", "//elsewhere.example", "/console/\\elsewhere.example"):
        answer = nobody.post("/console/sign-in", {"token": shop.token, "to": away})
        assert answer.headers["location"] == "/console", "nobody is sent elsewhere"
    foreign = nobody.post("/console/sign-in", {"token": shop.token}, Sec_Fetch_Site="cross-site", Origin=None)
    assert foreign.status == 403, "no page of another origin signs a browser in"


def test_a_viewer_sees_no_action(viewer: Visitor, owner: Visitor) -> None:
    """Must hold. The owner has them on the same pages, so the test looks for the right thing."""
    for name in (*ACTED_ON, "jobs", "dead", "approvals"):
        path = PAGES[name]
        theirs, mine = viewer.get(path), owner.get(path)
        assert theirs.status == mine.status == 200, path
        pattern = rb'action="/console/(act|plan)"|verb=redrive|/reproduce"|/policy"'
        assert re.search(pattern, mine.body), f"{path} has an action for its owner"
        assert not re.search(pattern, theirs.body), f"{path} has none for a viewer"
    for name in ("audit", "verification", "plan", "policy", "policy-change"):
        assert viewer.get(PAGES[name]).status == 403


def test_a_forged_post_is_refused(owner: Visitor, viewer: Visitor, shop: Api) -> None:
    """Must hold: of another page, without the word of the session, with another's; and a viewer's own."""
    act = {"verb": "cancel", "queue": "billing", "of": "settle", "reason": "forged"}
    word = owner.word()
    forgeries = [
        owner.post("/console/act", act),
        owner.post("/console/act", {**act, "csrf": "0" * len(word)}),
        owner.post("/console/act", {**act, "csrf": viewer.word()}),
        owner.post("/console/act", {**act, "csrf": word}, Sec_Fetch_Site="cross-site"),
        owner.post("/console/act", {**act, "csrf": word}, Origin="http://elsewhere.example"),
        owner.post("/console/act", {**act, "csrf": word}, Content_Type="text/plain"),
        viewer.post("/console/act", {**act, "csrf": viewer.word()}),
        owner.get("/console/act", **act, csrf=word),
    ]
    assert [got.status for got in forgeries] == [403, 403, 403, 403, 403, 415, 403, 405]
    for path in ("/console/queues/billing/policy", "/console/plan", "/console/start", f"{JOB}/reproduce"):
        assert owner.post(path, {"queue": "billing", "reason": "forged"}).status == 403, path
    assert shop.get("/v1/queues/billing/jobs/settle").document["state"] == "suspended"
    assert owner.post("/console/act", {**act, "reason": " ", "csrf": word}).status == 422, "it needs a reason"
    denied = shop.get("/v1/audit", actor="vera", refused="true").document["acts"]
    assert [each["verb"] for each in denied][:1] == ["cancel"], "and it is in the audit"


def test_actions_are_the_persons_own_and_show_their_event(owner: Visitor, shop: Api) -> None:
    word = owner.word()
    act = {"verb": "pause_queue", "queue": "mail", "of": "mail", "reason": "to see", "csrf": word}
    got = owner.post("/console/act", act)
    assert got.status == 303
    shown = owner.get(got.headers["location"])
    (change,) = shop.get("/v1/queues/mail", history="true").document["history"][:1]
    assert (change["actor"], change["event"]) == ("owner", "queue_paused")
    assert f"Recorded as #{change['seq']}" in "".join(seen(shown.body).text)
    assert owner.post("/console/act", {**act, "verb": "resume_queue"}).status == 303


def test_a_policy_is_changed_by_a_form_of_its_schema(owner: Visitor, shop: Api) -> None:
    """The difference is shown before, the reason is kept, and what came meanwhile is not overwritten."""
    form = form_fields(owner.get("/console/queues/quiet/policy").body.decode())
    assert {"in.concurrency", "in.retry.max_attempts", "in.limits.lease_s", "in.burst"} <= set(form)
    typed = {"in.concurrency": "9", "in.retry.non_retryable_types": '["TypeError"]', "in.isolation": "plain"}
    looked = owner.get("/console/queues/quiet/policy/change", **typed)
    assert looked.status == 200
    text = words(looked.body)
    assert "Change 3 fields of the policy of quiet?" in text
    assert "concurrency none 9" in text
    assert 'retry.non_retryable_types [] ["TypeError"]' in text
    fields = form_fields(looked.body.decode())
    assert owner.post("/console/queues/quiet/policy", {**fields, "reason": " "}).status == 422, "say why"
    got = owner.post("/console/queues/quiet/policy", {**fields, "reason": "nine at most"})
    assert got.status == 303, got.body
    text = "".join(seen(owner.get(got.headers["location"]).body).text)
    assert "Recorded as" in text
    assert "queue_declared" in text.split("Recorded as")[1][:60]
    queue = shop.get("/v1/queues/quiet", history="true").document
    policy = queue["policy"]
    assert (policy["concurrency"], policy["isolation"]) == (9, "plain")
    assert policy["retry"] == {"non_retryable_types": ["TypeError"]}
    assert (queue["history"][0]["actor"], queue["version"]) == ("owner", 1)

    fields = form_fields(owner.get("/console/queues/quiet/policy/change", **{"in.burst": "2"}).body.decode())
    shop.ask("PUT", "/v1/queues/quiet", {"policy": {"concurrency": 4}, "reason": "meanwhile"})
    stale = owner.post("/console/queues/quiet/policy", {**fields, "reason": "late"})
    assert stale.status == 409
    text = words(stale.body)
    assert "version is 1, and the policy is of version 2: look again" in text
    assert "concurrency 4 none" in text, "it shows against what"
    assert shop.get("/v1/queues/quiet").document["policy"] == {"concurrency": 4}


def test_a_policy_that_cannot_be_is_not_confirmed(owner: Visitor, viewer: Visitor) -> None:
    bad = {"in.concurrency": "0", "in.retry.per_class": "{", "in.isolation": "thick", "in.burst": "3"}
    got = owner.get("/console/queues/quiet/policy/change", **bad)
    text = words(got.body)
    assert got.status == 422
    for said in (
        "concurrency : it is 0; at least 1",
        "per_class : this is not JSON",
        "'thick' is not one of",
    ):
        assert said in text
    assert form_fields(got.body.decode())["in.burst"] == "3", "what was typed is kept"
    nested = owner.get(
        "/console/queues/quiet/policy/change", **{"in.retry.per_class": '{"system": {"x": 1}}'}
    )
    assert nested.status == 422
    same = owner.get("/console/queues/billing/policy/change", **{"in.concurrency": "6"})
    assert "Nothing in the form differs" in "".join(seen(same.body).text)
    assert owner.get("/console/queues/no%20queue!/policy").status == 422
    assert viewer.get("/console/queues/billing/policy").status == 403
    sent = {"csrf": viewer.word(), "policy": "{}", "version": "2", "reason": "forged"}
    assert viewer.post("/console/queues/billing/policy", sent).status == 403


def test_a_worker_is_drained_and_takes_leases_again(owner: Visitor, shop: Api) -> None:
    path = PAGES["worker"]
    act = {"queue": "", "of": WORKER, "reason": "it is hot", "csrf": owner.word()}
    try:
        got = owner.post("/console/act", {**act, "verb": "drain_worker"})
        assert got.status == 303, got.body
        text = words(owner.get(got.headers["location"]).body)
        assert "worker_drained by owner: it is hot" in text
        assert b'value="undrain_worker"' in owner.get(path).body
    finally:
        got = owner.post("/console/act", {**act, "verb": "undrain_worker", "reason": "cool"})
    assert got.status == 303
    assert b'value="drain_worker"' in owner.get(path).body
    page = owner.get(path)
    assert "copies" in "".join(seen(page.body).text), "what its tasks take"
    assert owner.get("/console/workers/nobody").status == 404


def test_a_release_tells_what_was_proved_and_waits_for_a_second_person(owner: Visitor, shop: Api) -> None:
    listed = words(owner.get("/console/releases").body)
    assert "candidate may run restore: fail" in listed
    page = words(owner.get(PAGES["release"]).body)
    for said in ("release_published", "promotion_blocked", "0 of 1 who hold approver", "promotion_proposed"):
        assert said in page
    waiting = "".join(seen(owner.get("/console/approvals/promotions").body).text)
    assert "You proposed it: another person approves." in waiting
    digest = re.search(
        r"/console/releases/invoices/([0-9a-f]{64})", owner.get("/console/releases").body.decode()
    )
    assert digest is not None
    act = {"queue": "", "of": f"invoices@{digest[1]}", "csrf": owner.word(), "reason": "it is wrong"}
    for verb, event, standing in (
        ("freeze_release", "release_frozen", "frozen"),
        ("unfreeze_release", "release_unfrozen", "may run"),
    ):
        got = owner.post("/console/act", {**act, "verb": verb})
        assert got.status == 303, got.body
        text = "".join(seen(owner.get(got.headers["location"]).body).text)
        assert event in text.split("Recorded as")[1][:80]
        assert standing in text
    assert owner.get("/console/releases/nothing").status == 404
    assert owner.get("/console/releases/invoices/9.9.9").status == 404


def test_a_plan_never_does_more_than_was_confirmed(owner: Visitor, shop: Api) -> None:
    page = owner.get("/console/plan", verb="rerun", job=["billing~inv-1", "billing~inv-2"])
    assert "Rerun 2 jobs?" in words(page.body)
    fields = form_fields(page.body.decode())
    assert fields["matched~billing"] == "2"
    sent = {**fields, "job": ["billing~inv-1", "billing~inv-2"], "matched~billing": "1", "reason": "again"}
    got = owner.post("/console/plan", sent)
    assert got.status == 303, got.body
    _, _, _, queue, _, name = got.headers["location"].split("?")[0].split("/")
    operation = shop.get(f"/v1/queues/{queue}/operations/{name}").document
    assert (operation["limit"], operation["actor"], operation["reason"]) == (1, "owner", "again")
    assert owner.get("/console/plan", verb="explode", queue="billing").status == 422
    assert owner.get("/console/plan", verb="cancel").status == 422


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"state": "gone"}, "there is no state"),
        ({"error": "gone"}, "there is no error class"),
        ({"tag": "gone"}, "a tag is a name and a value"),
        ({"since": "gone"}, "since is a time"),
        ({"queue": "no queue of this name!"}, "queue"),
        ({"cursor": "gone"}, "cursor"),
    ],
)
def test_a_wrong_filter_says_what_is_wrong(owner: Visitor, query: dict[str, str], said: str) -> None:
    got = owner.get("/console/jobs", **query)
    assert got.status == 422
    assert said in "".join(seen(got.body).text)


def test_filters_in_the_address_choose_the_jobs(owner: Visitor) -> None:
    def ids(**query: Any) -> set[str]:
        got = owner.get("/console/jobs", **query)
        return set(re.findall(r'id="j-([^"]+)"', got.body.decode()))

    assert ids(state="dead", queue="billing") == {"billing~inv-0", "billing~inv-4", "billing~inv-8"}
    assert ids(queue="mail", error="application") == {"mail~hostile", "mail~line"}
    assert "billing~settle:1:1" in ids(parent="billing~settle")
    assert ids(queue="mail", since="2999-01-01T00:00") == set()


def test_no_page_grows_with_history(owner: Visitor, shop: Api) -> None:
    """Must hold: of a long history a page has as much as of a short one, and the rest is a page further."""
    path = f"/console/queues/billing/jobs/{edited(shop, SOME)}"
    last = owner.get(path)
    text = words(last.body)
    assert f"301 to 351 of {SOME + 1}" in text
    first = owner.get(path, **{"from": 1})
    assert f"1 to 100 of {SOME + 1}" in words(first.body)
    assert b'rel="next"' in first.body
    assert b'rel="prev"' in last.body
    for got in (first, last, owner.get(f"{path}/at", n=200)):
        assert got.status == 200
        assert len(got.body) < PAGE_MAX_BYTES
    assert len(owner.get("/console/jobs").body) < PAGE_MAX_BYTES


def test_someone_of_one_queue_has_the_rest_of_the_page(shop: Api, owner: Visitor) -> None:
    """What is denied is told in its place, and what is not denied is there."""
    shop.writ("principal", "create", "nora")
    shop.writ("grant", "nora", "operator", "--in", "mail", "--reason", "on call")
    nora = Visitor(shop)
    nora.sign_in(shop.writ("token", "create", "t", "--for", "nora").stdout.strip().splitlines()[0])
    overview = nora.get("/console")
    assert overview.status == 200
    assert "is not shown" in "".join(seen(overview.body).text)
    assert nora.get(JOB).status == 403
    job = nora.get("/console/queues/mail/jobs/hostile")
    assert job.status == 200
    assert b'action="/console/act"' in job.body


def test_signing_out_ends_the_session(shop: Api) -> None:
    visitor = Visitor(shop)
    visitor.sign_in(token_of(shop, "otto", "viewer"))
    assert visitor.get("/console/jobs").status == 200
    assert visitor.post("/console/sign-out", {}).status == 403, "not by a page of somebody else's"
    assert visitor.post("/console/sign-out", {"csrf": visitor.word()}).status == 303
    shop.until(lambda: visitor.get("/console/jobs").status == 303)
