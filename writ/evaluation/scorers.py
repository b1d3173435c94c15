"""Scorers: what an answer is worth, as a number. They run in workers, as jobs.

A score is 0 to 1 with 1 the best, but for `cost` (micro-dollars) and `latency` (seconds). An answer that is
no answer, because the job ended otherwise than completed, is worth 0 to those that look at what was answered.
"""

from __future__ import annotations

import importlib
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import msgspec

from . import endpoints
from .data import Item


class ScorerError(ValueError):
    """A scorer that cannot score: what is wrong with it, or with the item's expectation."""


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a try at an item came to, as the log tells it."""

    state: str
    output: Any = None
    error: str | None = None
    run_s: float | None = None
    """Of its attempts, by the workers' clocks."""
    cost_microusd: int | None = None
    """None where a call was of a model without a price."""
    tools: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    """What else it wrote down: errors, and what its tools were told and answered, as far as it is kept."""


class Scorer(msgspec.Struct, frozen=True, tag_field="kind", forbid_unknown_fields=True, kw_only=True):
    """Base of the scorers. `field` is what is looked at in output and expectation: `total`,
    `lines.0.price`."""

    field: str | None = None

    def score(self, item: Item, answer: Answer) -> float | None:
        """The score of one answer; None where there cannot be one, which counts as missing."""
        if answer.state != "completed":
            return 0.0
        missing = object()
        expected = _at(item.expected, self.field, missing)
        if expected is missing:
            raise ScorerError(f"item {item.id!r} expects nothing at {self.field!r}")
        given = _at(answer.output, self.field, missing)
        return 0.0 if given is missing else self.compare(expected, given)

    def compare(self, expected: Any, given: Any) -> float:
        """What `given` is worth where `expected` is expected."""
        raise ScorerError(f"{type(self).__name__} compares nothing")


class Exact(Scorer, frozen=True, tag="exact"):
    """1 where both are equal; with `fold`, texts are equal whatever their case and white space."""

    fold: bool = False

    def compare(self, expected: Any, given: Any) -> float:
        return float(_folded(expected) == _folded(given)) if self.fold else float(_equal(expected, given))


class Number(Scorer, frozen=True, tag="number"):
    """1 where two numbers, or texts of numbers, differ by no more than `absolute`, or `relative` of the
    expected."""

    absolute: float = 0.0
    relative: float = 0.0

    def compare(self, expected: Any, given: Any) -> float:
        wanted, told = _number(expected), _number(given)
        if wanted is None:
            raise ScorerError(f"{expected!r} was expected, which is no number")
        room = max(self.absolute, self.relative * abs(wanted))
        # Beyond the room by less than what is lost in writing decimals as binary fractions is within it.
        return float(told is not None and abs(told - wanted) <= room + 1e-12 * max(abs(wanted), abs(told)))


class SetF1(Scorer, frozen=True, tag="set_f1"):
    """F1 of two lists as sets: the harmonic mean of precision and recall; what is there twice counts
    twice."""

    def compare(self, expected: Any, given: Any) -> float:
        wanted, told = Counter(_keys(expected)), Counter(_keys(given) if isinstance(given, list) else [])
        return _f1((wanted & told).total(), wanted.total(), told.total())


class SequenceF1(Scorer, frozen=True, tag="sequence_f1"):
    """F1 of two lists, or of two texts' words, in their order, by the longest common subsequence (as
    ROUGE-L)."""

    def compare(self, expected: Any, given: Any) -> float:
        wanted, told = _sequence(expected), _sequence(given)
        return _f1(_common(wanted, told), len(wanted), len(told))


class Pattern(Scorer, frozen=True, tag="regex"):
    """1 where `pattern`, or the expected text as one, is found in the answer."""

    pattern: str | None = None

    def score(self, item: Item, answer: Answer) -> float | None:
        if self.pattern is None:
            return super().score(item, answer)
        given = _at(answer.output, self.field, None)
        return self.compare(self.pattern, given) if answer.state == "completed" else 0.0

    def compare(self, expected: Any, given: Any) -> float:
        try:
            pattern = re.compile(str(expected))
        except re.error as error:
            raise ScorerError(f"{expected!r} is no regular expression: {error}") from error
        return float(isinstance(given, str) and pattern.search(given) is not None)


class Schema(Scorer, frozen=True, tag="json_schema"):
    """1 where the answer is valid by a JSON Schema: `schema`, or the expectation. Needs
    `writ-orchestrator[evaluate]`."""

    schema: dict[str, Any] | None = None

    def score(self, item: Item, answer: Answer) -> float | None:
        if self.schema is None:
            return super().score(item, answer)
        given = _at(answer.output, self.field, None)
        return self.compare(self.schema, given) if answer.state == "completed" else 0.0

    def compare(self, expected: Any, given: Any) -> float:
        try:
            import jsonschema_rs
        except ImportError as error:
            reason = "json_schema needs jsonschema-rs: pip install writ-orchestrator[evaluate]"
            raise ScorerError(reason) from error
        try:
            checker = jsonschema_rs.validator_for(expected)
        except (jsonschema_rs.ValidationError, ValueError) as error:
            raise ScorerError(f"the schema is wrong: {error}") from error
        return float(checker.is_valid(given))


class Similarity(Scorer, frozen=True, tag="similarity"):
    """The cosine of both texts' embeddings, 0 where it is negative, by an OpenAI-compatible endpoint."""

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"

    def compare(self, expected: Any, given: Any) -> float:
        texts = [_text(expected), _text(given)]
        one, other = endpoints.embed(self.url, self.model, os.environ.get(self.key_variable), texts)
        norm = math.hypot(*one) * math.hypot(*other)
        return min(1.0, max(0.0, sum(a * b for a, b in zip(one, other, strict=True)) / norm)) if norm else 0.0


class Model(Scorer, frozen=True, tag="model"):
    """What a model says of the answer, through an OpenAI-compatible endpoint.

    It is told `rubric`, the item's input, the expectation and the answer, and must reply with JSON whose
    `score` is 0 to 1. Answers are given to it as data, apart from the instructions.
    """

    url: str
    model: str
    rubric: str
    key_variable: str = "OPENAI_API_KEY"

    def score(self, item: Item, answer: Answer) -> float | None:
        if answer.state != "completed":
            return 0.0
        given = _at(answer.output, self.field, None)
        asked = {"input": item.input, "expected": item.expected, "answer": given}
        return endpoints.judge(self.url, self.model, os.environ.get(self.key_variable), self.rubric, asked)


class Custom(Scorer, frozen=True, tag="python"):
    """A function of yours, `package.module:name`, of (item, answer), in the scoring worker."""

    function: str

    def score(self, item: Item, answer: Answer) -> float | None:
        module, _, name = self.function.partition(":")
        try:
            found: Callable[[Item, Answer], float | None] = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ScorerError(f"{self.function!r} cannot be loaded: {error}") from error
        value = found(item, answer)
        if value is not None and not math.isfinite(value):
            raise ScorerError(f"{self.function} gave {value} for item {item.id!r}")
        return None if value is None else float(value)


class Cost(Scorer, frozen=True, tag="cost"):
    """Micro-dollars of the models it called; missing where one has no price."""

    def score(self, item: Item, answer: Answer) -> float | None:
        return None if answer.cost_microusd is None else float(answer.cost_microusd)


class Latency(Scorer, frozen=True, tag="latency"):
    """Seconds of running, over all attempts."""

    def score(self, item: Item, answer: Answer) -> float | None:
        return answer.run_s


class Policy(Scorer, frozen=True):
    """Base of what must hold in each try: 1 where it does. Its kind is the name of a gate's policy check."""


class ForbiddenTools(Policy, frozen=True, tag="forbidden_tools"):
    """1 where none of `tools` was called; a name may end in `*`."""

    tools: tuple[str, ...]

    def score(self, item: Item, answer: Answer) -> float | None:
        return float(not any(_names(rule, tool) for rule in self.tools for tool in answer.tools))


class LeakedSecrets(Policy, frozen=True, tag="leaked_secrets"):
    """1 where none of `patterns`, regular expressions, is found in all that was written."""

    patterns: tuple[str, ...]

    def score(self, item: Item, answer: Answer) -> float | None:
        written = "\n".join([_text(answer.output), *answer.texts])
        try:
            return float(not any(re.search(pattern, written) for pattern in self.patterns))
        except re.error as error:
            raise ScorerError(f"one of the patterns is no regular expression: {error}") from error


class OverBudget(Policy, frozen=True, tag="over_budget"):
    """1 where no more than `usd` was spent on models; missing where one has no price."""

    usd: float

    def score(self, item: Item, answer: Answer) -> float | None:
        return None if answer.cost_microusd is None else float(answer.cost_microusd <= self.usd * 1e6)


AnyScorer = (
    Exact
    | Number
    | SetF1
    | SequenceF1
    | Pattern
    | Schema
    | Similarity
    | Model
    | Custom
    | Cost
    | Latency
    | ForbiddenTools
    | LeakedSecrets
    | OverBudget
)

LOWER_IS_BETTER: Final = (Cost, Latency)


def _at(value: Any, field: str | None, missing: Any) -> Any:
    for step in field.split(".") if field else ():
        if isinstance(value, dict) and step in value:
            value = cast("dict[str, Any]", value)[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(cast("list[object]", value)):
            value = cast("list[object]", value)[int(step)]
        else:
            return missing
    return value


def _equal(one: Any, other: Any) -> bool:
    """As JSON: true is not 1."""
    return msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted") or (
        type(one) in (int, float) and type(other) in (int, float) and one == other
    )


def _folded(value: Any) -> Any:
    return " ".join(value.split()).casefold() if isinstance(value, str) else value


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _keys(value: Any) -> list[bytes]:
    if not isinstance(value, list):
        raise ScorerError(f"a list must be expected to compare as a set, not {_text(value)[:80]}")
    return [msgspec.json.encode(each, order="sorted") for each in cast("list[object]", value)]


def _sequence(value: Any) -> list[Any]:
    if isinstance(value, str):
        return value.split()
    return _keys(value) if isinstance(value, list) else []


def _common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """The length of the longest common subsequence."""
    lengths = [0] * (len(other) + 1)
    for a in one:
        before = 0
        for j, b in enumerate(other, 1):
            before, lengths[j] = lengths[j], before + 1 if a == b else max(lengths[j], lengths[j - 1])
    return lengths[-1]


def _f1(common: int, wanted: int, told: int) -> float:
    return 1.0 if wanted == told == 0 else 2 * common / (wanted + told)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value, order="sorted").decode()


def _names(rule: str, tool: str) -> bool:
    return tool.startswith(rule[:-1]) if rule.endswith("*") else tool == rule
