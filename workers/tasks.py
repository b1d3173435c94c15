"""Tasks: typed functions that a worker can run, and how a job's input becomes their arguments."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from typing import Any, Generic, ParamSpec, TypeVar, overload

import msgspec

from writ.schemas.bounds import TASK_MAX_BYTES, TASKS_TOLD_MAX, TASKS_TOLD_MAX_BYTES
from writ.schemas.faults import explain_fault

from .context import Context
from .errors import TaskError

P = ParamSpec("P")
R = TypeVar("R")

_NAME = re.compile(r"[^\x00-\x20\x7f]+")
_KINDS = inspect.Parameter
_SCHEMA_MAX_CHARS = 16_384


class InputMismatch(Exception):
    """A job's input does not fit the task's parameters."""


class OutputMismatch(Exception):
    """What a task returned does not fit its annotation."""


Around = Callable[[Context], AbstractContextManager[Any] | AbstractAsyncContextManager[Any]]
"""Makes what stands around a task, of the attempt's context."""

Bind = Callable[[msgspec.Raw], dict[str, Any]]


class Task(Generic[P, R]):
    """A function with a name under which jobs ask for it. Calling it calls the function."""

    def __init__(
        self, function: Callable[P, R], name: str | None = None, around: Iterable[Around] = ()
    ) -> None:
        self.function = function
        self.around = tuple(around)
        self.name = name if name is not None else getattr(function, "__name__", "")
        if not _NAME.fullmatch(self.name) or len(self.name.encode()) > TASK_MAX_BYTES:
            raise TaskError(
                f"task name {self.name!r} is not allowed: give 1 to {TASK_MAX_BYTES} bytes without blanks "
                "or control characters"
            )
        self.is_async = _is_async(function)
        self.context_name, self._bind, self._shape = _binder(function, self.name)
        self._read_output = _output_reader(function, self.name)
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<task {self.name}>"

    def within(self, around: Iterable[Around]) -> Task[P, R]:
        """The same task with more around it, outside of what it has."""
        more = tuple(around)
        return Task(self.function, self.name, (*more, *self.around)) if more else self

    def input_schema(self) -> str:
        """What its input must be, as a JSON Schema; one that takes anything where the types cannot say it."""
        try:
            schema: dict[str, Any] = msgspec.json.schema(self._shape)
        except (TypeError, RuntimeError):
            schema = {}
        fields: dict[str, Any] = schema.get("$defs", {}).get("Input", {}).get("properties", {})
        for parameter in inspect.signature(self.function).parameters.values():
            if parameter.name in fields and parameter.default not in (_KINDS.empty, None):
                with suppress(TypeError):
                    fields[parameter.name] |= {"default": msgspec.to_builtins(parameter.default)}
        about = (self.__doc__ or "").strip().partition("\n")[0]
        return msgspec.json.encode(schema | ({"description": about} if about else {})).decode()

    def arguments(self, data: msgspec.Raw) -> dict[str, Any]:
        """The arguments for a job's input, by name, without the context. Raises InputMismatch."""
        try:
            return self._bind(data)
        except msgspec.ValidationError as error:
            field, reason = explain_fault(error)
            raise InputMismatch(f"input.{field}: {reason}" if field else f"input: {reason}") from error

    def check_output(self, data: bytes) -> None:
        """Raises OutputMismatch where an output, as JSON, does not fit the annotation of what is returned."""
        if self._read_output is None:
            return
        try:
            self._read_output(data)
        except msgspec.ValidationError as error:
            field, reason = explain_fault(error)
            raise OutputMismatch(f"output.{field}: {reason}" if field else f"output: {reason}") from error


def schemas_of(tasks: Mapping[str, Task[..., Any]]) -> dict[str, str]:
    """What tasks take, as JSON Schemas by name: without those that are too long, or none where all are."""
    told = {name: each.input_schema() for name, each in list(tasks.items())[:TASKS_TOLD_MAX]}
    schemas = {name: schema for name, schema in told.items() if len(schema) <= _SCHEMA_MAX_CHARS}
    size = sum(len(name) + len(schema) for name, schema in schemas.items())
    return schemas if size <= TASKS_TOLD_MAX_BYTES else {}


@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(
    *, name: str | None = None, around: Iterable[Around] = ()
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(
    function: Callable[P, R] | None = None, /, *, name: str | None = None, around: Iterable[Around] = ()
) -> Task[P, R] | Callable[[Callable[P, R]], Task[P, R]]:
    """Makes a function a task: `@task` with the function's name, or `@task(name="invoices.extract")`.

    A job's input is an object whose fields are matched to the parameters by name and converted to their
    annotated types; a missing field needs a default. A function with one parameter annotated as a Struct,
    dataclass, TypedDict or dict gets the whole input. A parameter annotated with Context gets the context.
    What it returns is checked against its annotation, where it has one that JSON can be read as.
    Coroutine functions run on the worker's event loop, plain ones in its threads.

    Each of `around` is a function that makes a context manager of the attempt's context, such as one with
    `@contextmanager`; the first is the outermost. Coroutines may have asynchronous ones, too. It sees what
    the task raises; what is no Exception, such as the end of an attempt that waits, it must let pass.
    Raises TaskError for a function whose parameters cannot be filled that way.
    """
    if function is not None:
        return Task(function, name, around)
    return lambda f: Task(f, name, around)


def _is_async(function: Callable[..., Any]) -> bool:
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise TaskError(f"{function!r} is a generator; a task returns its output")
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object that is called like a coroutine function
    )


def _annotations(function: Callable[..., Any], name: str) -> dict[str, Any]:
    target = function if inspect.isroutine(function) else getattr(function, "func", type(function).__call__)
    try:
        return typing.get_type_hints(target, include_extras=True)
    except NameError as error:
        raise TaskError(
            f"task {name}: an annotation cannot be resolved: {error}; import it at run time"
        ) from error


def _output_reader(function: Callable[..., Any], name: str) -> Callable[[bytes], Any] | None:
    """What reads an output as the type that the function is annotated to return; None where there is none."""
    hint = _annotations(function, name).get("return", Any)
    if hint is Any or hint is type(None):
        return None
    try:
        return msgspec.json.Decoder(hint).decode
    except (TypeError, RuntimeError):
        return None  # what a type of the user's own becomes in JSON is its own affair


def _binder(function: Callable[..., Any], name: str) -> tuple[str | None, Bind, Any]:
    """The name of the context's parameter, what turns an input into the other arguments, and its type."""
    hints = _annotations(function, name)
    context_name: str | None = None
    takes_rest = False
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (_KINDS.POSITIONAL_ONLY, _KINDS.VAR_POSITIONAL):
            raise TaskError(
                f"task {name}: parameter {parameter} cannot be given by name; write it as a named one"
            )
        if parameter.kind is _KINDS.VAR_KEYWORD:
            takes_rest = True
        elif hints.get(parameter.name) in (Context, Context | None):
            if context_name is not None:
                raise TaskError(
                    f"task {name}: parameters {context_name} and {parameter.name} are both the context"
                )
            context_name = parameter.name
        else:
            parameters.append(parameter)
    try:
        if len(parameters) == 1 and not takes_rest and _is_whole(hints.get(parameters[0].name)):
            shape = hints[parameters[0].name]
            return context_name, _bind_whole(parameters[0].name, shape), shape
        return context_name, *_bind_fields(name, parameters, hints, takes_rest)
    except (TypeError, RuntimeError) as error:
        raise TaskError(
            f"task {name}: an annotation cannot be read from JSON: {error}; use types that msgspec supports"
        ) from error


def _is_whole(annotation: Any) -> bool:
    """Whether a single parameter of this type stands for the whole input."""
    origin: Any = typing.get_origin(annotation) or annotation
    if not inspect.isclass(origin):
        return False
    return bool(
        issubclass(origin, (msgspec.Struct, Mapping))
        or dataclasses.is_dataclass(origin)
        or hasattr(origin, "__attrs_attrs__")
        or typing.is_typeddict(origin)
    )


def _bind_whole(parameter: str, annotation: Any) -> Bind:
    decode = msgspec.json.Decoder(annotation).decode
    return lambda data: {parameter: decode(data)}


def _bind_fields(
    name: str, parameters: list[inspect.Parameter], hints: dict[str, Any], takes_rest: bool
) -> tuple[Bind, Any]:
    fields: list[Any] = []
    names = [parameter.name for parameter in parameters]
    optional = False
    for parameter in parameters:
        annotation = hints.get(parameter.name, Any)
        if parameter.default is _KINDS.empty:
            fields.append((parameter.name, annotation))
        else:
            optional = True
            fields.append((parameter.name, annotation | msgspec.UnsetType, msgspec.UNSET))
    shape = msgspec.defstruct("Input", fields, kw_only=True, forbid_unknown_fields=not takes_rest)
    decode = msgspec.json.Decoder(shape).decode
    as_dict = msgspec.structs.asdict
    absent = msgspec.Raw(b"{}")

    def bind(data: msgspec.Raw) -> dict[str, Any]:
        if bytes(data) == b"null":
            data = absent
        values = as_dict(decode(data))
        if optional:
            values = {k: v for k, v in values.items() if v is not msgspec.UNSET}
        if takes_rest:
            whole: dict[str, Any] = msgspec.json.decode(data)
            values.update({k: v for k, v in whole.items() if k not in names})
        return values

    return bind, shape
