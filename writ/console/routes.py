"""The addresses of the console, below its root, and what makes each page."""

from __future__ import annotations

from typing import Final

from . import acting, dead, governing, job, jobs, measures, overview, people, policies, releasing, starting
from .visit import Handler

JOB: Final = "/queues/{queue}/jobs/{id}"

ROUTES: Final[tuple[tuple[str, str, Handler], ...]] = (
    ("GET", "", overview.overview),
    ("GET", "/jobs", jobs.jobs),
    ("GET", JOB, job.job),
    ("GET", f"{JOB}/at", job.at),
    ("GET", f"{JOB}/records/{{seq}}", job.record),
    ("GET", f"{JOB}/content/{{name}}", job.content),
    ("GET", f"{JOB}/bundle", job.bundle),
    ("GET", f"{JOB}/verification", job.verification),
    ("POST", f"{JOB}/reproduce", acting.reproduce),
    ("GET", "/compare", job.compare),
    ("GET", "/dead", dead.dead),
    ("GET", "/plan", dead.plan),
    ("POST", "/plan", dead.carry_out),
    ("GET", "/operations", dead.operations),
    ("GET", "/queues/{queue}/operations/{id}", dead.operation),
    ("GET", "/queues", governing.queues),
    ("GET", "/queues/{queue}", governing.queue),
    ("GET", "/queues/{queue}/policy", policies.form),
    ("GET", "/queues/{queue}/policy/change", policies.change),
    ("POST", "/queues/{queue}/policy", policies.declare),
    ("GET", "/schedules", governing.schedules),
    ("GET", "/queues/{queue}/schedules/{name}", governing.schedule),
    ("GET", "/workers", measures.workers),
    ("GET", "/workers/{name}", measures.worker),
    ("GET", "/releases", releasing.releases),
    ("GET", "/releases/{process}", releasing.process),
    ("GET", "/releases/{process}/{release}", releasing.release),
    ("GET", "/cost", measures.cost),
    ("GET", "/audit", people.audit),
    ("GET", "/audit/verification", people.verification),
    ("GET", "/approvals", people.approvals),
    ("GET", "/approvals/promotions", people.promotions),
    ("GET", "/start", starting.start),
    ("POST", "/start", starting.submit),
    ("POST", "/act", acting.act),
)
