"""A plan says how a process is evaluated: on which data, how often, by which scorers, what counts as a drop.

data = "invoices.jsonl"
task = "extract"
repeats = 5

[[dimension]]
name = "total"
detect = 0.05
scorer = { kind = "number", field = "total", absolute = 0.005 }

[[dimension]]
name = "tools"
minimum = 1.0
every = true
scorer = { kind = "forbidden_tools", tools = ["send_*"] }
"""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from writ.schemas.evaluations import Better, Dimension
from writ.schemas.forms import TaskName, Token

from .data import DataError, DataSet, read_data
from .scorers import LOWER_IS_BETTER, AnyScorer, Policy

REPEATS_MAX: Final = 100
FOLDER: Final = "evaluations"


class PlanError(ValueError):
    """A plan that cannot be followed; says what is wrong, and where."""


class Measure(Dimension, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A dimension with what scores it."""

    scorer: AnyScorer

    def dimension(self) -> Dimension:
        """Without the scorer, as verdicts know it."""
        return msgspec.convert(self, Dimension, from_attributes=True)


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The plan's file. `task` is what is tried where no process is named; `queue` has the jobs that try it,
    `scoring_queue` those that score. `attempt_timeout_s` bounds one try; a try has one attempt."""

    data: str
    dimension: tuple[Measure, ...]
    task: TaskName | None = None
    repeats: Annotated[int, Meta(ge=1, le=REPEATS_MAX)] = 5
    queue: Token = "default"
    scoring_queue: Token = "scoring"
    attempt_timeout_s: Annotated[float, Meta(gt=0)] = 300.0


class Prepared(msgspec.Struct, frozen=True):
    """A plan with its data; `digest` is SHA-256, in hex, of what decides its scores: task, data, scorers."""

    name: str
    plan: Plan
    data: DataSet
    digest: str


def prepare(name: str, repeats: int | None = None) -> Prepared:
    """Read a plan from a path, or as `evaluations/NAME.toml`, and the data beside it.

    Raises:
        PlanError: plan or data cannot be used.
    """
    path = Path(name) if name.endswith(".toml") else Path(FOLDER, f"{name}.toml")
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{path} is no TOML: {error}") from error
    try:
        plan = msgspec.convert(table, Plan)
    except msgspec.ValidationError as error:
        raise PlanError(f"{path}: {error}") from error
    if repeats is not None:
        if not 1 <= repeats <= REPEATS_MAX:
            raise PlanError(f"{repeats} repeats cannot be: it must be 1 to {REPEATS_MAX}")
        plan = msgspec.structs.replace(plan, repeats=repeats)
    _check(path, plan)
    try:
        data = read_data(path.parent / plan.data)
    except DataError as error:
        raise PlanError(str(error)) from error
    decides = [plan.task, data.digest, plan.attempt_timeout_s, [each.scorer for each in plan.dimension]]
    digest = hashlib.sha256(msgspec.json.encode(decides, order="sorted")).hexdigest()
    return Prepared(path.stem, plan, data, digest)


def _check(path: Path, plan: Plan) -> None:
    names = [each.name for each in plan.dimension]
    if not names:
        raise PlanError(f"{path} names no dimension, so that there is nothing to score")
    for each in plan.dimension:
        where = f"{path}, dimension {each.name!r}"
        if names.count(each.name) > 1:
            raise PlanError(f"{where} is there {names.count(each.name)} times; a name is for one")
        if each.detect <= each.tolerate and not each.every:
            raise PlanError(f"{where}: detect={each.detect:g} must be more than tolerate={each.tolerate:g}")
        if isinstance(each.scorer, LOWER_IS_BETTER) and each.better is Better.HIGHER:
            raise PlanError(f'{where}: less of it is better; add better = "lower"')
        bound, wrong = ("minimum", "maximum") if each.better is Better.HIGHER else ("maximum", "minimum")
        if getattr(each, wrong) is not None:
            raise PlanError(f"{where}: {wrong} bounds nothing where {each.better} is better; use {bound}")
        if each.every and getattr(each, bound) is None:
            raise PlanError(f"{where}: every = true needs a {bound}")
        if isinstance(each.scorer, Policy) and not (each.every and each.minimum == 1):
            raise PlanError(f"{where}: a policy holds in each try; add minimum = 1.0 and every = true")
