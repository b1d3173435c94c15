"""All views, in the order in which they are shown. To add one, add a line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .jobs import JobsView
from .view import View

VIEWS: Final[tuple[Callable[[], View], ...]] = (JobsView,)
