"""Tasks: names, and inputs as arguments."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import msgspec
import pytest

from writ.workers import Context, Task, TaskError, task
from writ.workers.tasks import InputMismatch


class Invoice(msgspec.Struct):
    number: int
    note: str = ""


@dataclass
class Order:
    number: int


class Parcel(TypedDict):
    number: int


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def test_a_task_is_called_like_its_function() -> None:
    @task
    def add(a: int, b: int = 2) -> int:
        """Adds."""
        return a + b

    assert add(1) == 3
    assert (add.name, add.__doc__, add.is_async) == ("add", "Adds.", False)


def test_a_task_can_be_named() -> None:
    @task(name="invoices.extract")
    async def extract() -> None: ...

    assert (extract.name, extract.is_async) == ("invoices.extract", True)
    with pytest.raises(TaskError, match="task name 'a b' is not allowed"):
        task(name="a b")(extract.function)


def test_fields_are_matched_to_parameters_by_name() -> None:
    @task
    async def book(invoice: Invoice, times: int = 1, *, tags: list[str] = ["x"]) -> None: ...  # noqa: B006

    assert book.arguments(raw({"invoice": {"number": 7}, "times": 2})) == {"invoice": Invoice(7), "times": 2}


@pytest.mark.parametrize(("annotation", "value"), [(Invoice, Invoice(7)), (Order, Order(7)), (Parcel, None)])
def test_a_single_object_parameter_takes_the_whole_input(annotation: Any, value: Any) -> None:
    async def book(order: Any) -> None: ...

    book.__annotations__["order"] = annotation
    assert Task(book).arguments(raw({"number": 7})) == {"order": value or {"number": 7}}


def test_a_dict_parameter_takes_the_whole_input_and_the_context_stands_apart() -> None:
    @task
    async def book(ctx: Context, data: dict[str, Any]) -> None: ...

    assert book.context_name == "ctx"
    assert book.arguments(raw({"a": [1]})) == {"data": {"a": [1]}}


def test_the_rest_of_the_input_goes_to_keywords() -> None:
    @task
    async def book(number: int, **rest: Any) -> None: ...

    assert book.arguments(raw({"number": 1, "x": [2]})) == {"number": 1, "x": [2]}


@pytest.mark.parametrize("value", [None, {}])
def test_no_parameters_need_no_input(value: Any) -> None:
    @task
    async def tick() -> None: ...

    assert tick.arguments(raw(value)) == {}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, r"input.number: Object missing required field `number`"),
        ({"number": 1, "nmae": 2}, r"input.nmae: Object contains unknown field `nmae`"),
        ({"number": "1"}, r"input.number: Expected `int`, got `str`"),
        ({"number": 1, "invoice": {"number": None}}, r"input.invoice.number: Expected `int`, got `null`"),
        ([1], r"input: Expected `object`, got `array`"),
    ],
)
def test_a_mismatch_names_the_field(value: Any, words: str) -> None:
    @task
    async def book(number: int, invoice: Invoice | None = None) -> None: ...

    with pytest.raises(InputMismatch, match=words):
        book.arguments(raw(value))


def test_parameters_that_cannot_be_filled_are_refused() -> None:
    def positional(a: int, /) -> None: ...

    def several(*rest: int) -> None: ...

    def two(a: Context, b: Context) -> None: ...

    def odd(a: dict[bytes, Any] | list[int] | set[int]) -> None: ...

    def generator() -> Any:
        yield 1

    refused: list[tuple[Any, str]] = [
        (positional, "parameter a: 'int' cannot be given by name"),
        (several, "cannot be given by name"),
        (two, "a and b are both the context"),
        (odd, "an annotation cannot be read from JSON"),
        (generator, "is a generator"),
    ]
    for function, words in refused:
        with pytest.raises(TaskError, match=words):
            Task(function)


def test_a_task_tells_what_it_takes() -> None:
    @task
    def send(to: str, ctx: Context, kind: Literal["letter", "mail"] = "mail", copies: int = 1) -> None:
        """Sends it.

        More of that.
        """

    schema = json.loads(send.input_schema())
    (shape,) = schema["$defs"].values()
    assert schema["description"] == "Sends it."
    assert (list(shape["properties"]), shape["required"]) == (["to", "kind", "copies"], ["to"])
    assert sorted(shape["properties"]["kind"]["enum"]) == ["letter", "mail"]
    assert shape["properties"]["copies"]["default"] == 1
