"""The search space: what each axis of a study may be, keyed by the config path that it sets.

An axis may carry ties: other config paths that follow it at a fixed ratio, such as the rate of the
embedding at 1.25 times the rate of the matrices.  A tied path costs the search no dimension.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    Tag,
    model_validator,
)

from sweeper.errors import SweeperError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = bool | int | float | str


class AxisBase(BaseModel):
    """What all kinds of axes share."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    tie: dict[str, StrictFloat] = Field(
        default_factory=dict,
        description="Other config paths that follow this axis: path = ratio of its value.",
    )

    kind: ClassVar[str]
    """`log`, `uniform`, `int` or `choice`."""

    @property
    def is_log(self) -> bool:
        """Whether the axis is searched, and best drawn, on a logarithmic scale."""
        return False


class _Range(AxisBase):
    @property
    def low(self) -> float:
        """Smallest value, included."""
        low: float = getattr(self, self.kind)[0]
        return low

    @property
    def high(self) -> float:
        """Largest value, included."""
        high: float = getattr(self, self.kind)[1]
        return high

    def _check_range(self) -> None:
        if self.low >= self.high:
            raise ValueError(f"{self.kind} = [low, high] needs low < high, got [{self.low}, {self.high}]")
        if self.is_log and self.low <= 0:
            raise ValueError(f"a log scale needs low > 0, got {self.low}")

    def accept(self, value: Value) -> Value:
        """The value as this axis holds it.

        Raises:
            ValueError: it does not lie on the axis.
        """
        return _accept_real(value, self.low, self.high)

    def samples(self) -> list[Value]:
        """Values whose configs are built when the study is loaded: the ends."""
        return [self.low, self.high]


class LogAxis(_Range):
    """A real number, searched evenly in its logarithm."""

    kind = "log"
    log: tuple[StrictFloat, StrictFloat]

    @property
    def is_log(self) -> bool:
        return True

    @model_validator(mode="after")
    def _check(self) -> LogAxis:
        self._check_range()
        return self


class UniformAxis(_Range):
    """A real number, searched evenly; on a grid when `step` is given."""

    kind = "uniform"
    uniform: tuple[StrictFloat, StrictFloat]
    step: StrictFloat | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _check(self) -> UniformAxis:
        self._check_range()
        if self.step is not None and not _on_grid(self.high, self.low, self.step):
            raise ValueError(f"step {self.step} does not lead from {self.low} to {self.high}")
        return self

    def accept(self, value: Value) -> Value:
        accepted = _accept_real(value, self.low, self.high)
        if self.step is not None and not _on_grid(accepted, self.low, self.step):
            raise ValueError(f"expected {self.low} plus a multiple of {self.step}, got {value!r}")
        return accepted


class IntAxis(_Range):
    """A whole number, every `step` from the low end, or evenly in its logarithm."""

    kind = "int"
    int: tuple[StrictInt, StrictInt]
    step: StrictInt = Field(default=1, ge=1)
    log: StrictBool = False

    @property
    def is_log(self) -> bool:
        return self.log

    @model_validator(mode="after")
    def _check(self) -> IntAxis:
        self._check_range()
        low, high = self.int
        if (high - low) % self.step != 0:
            raise ValueError(f"step {self.step} does not lead from {low} to {high}")
        if self.log and self.step != 1:
            raise ValueError(f"log = true goes with step 1 only, got {self.step}")
        return self

    def accept(self, value: Value) -> Value:
        """The value as this axis holds it; a whole float becomes an int.

        Raises:
            ValueError: it does not lie on the axis.
        """
        low, high = self.int
        whole = not isinstance(value, (bool, str)) and math.isfinite(value) and value == round(value)
        if not whole or not low <= round(float(value)) <= high:
            raise ValueError(f"expected a whole number in [{low}, {high}], got {value!r}")
        number = round(float(value))
        if (number - low) % self.step != 0:
            raise ValueError(f"expected {low} plus a multiple of {self.step}, got {value!r}")
        return number

    def samples(self) -> list[Value]:
        """Values whose configs are built when the study is loaded: all of a few, else the ends and the
        second, which shows whether a tied ratio stays whole."""
        low, high = self.int
        values = range(low, high + 1, self.step)
        return list(values) if len(values) <= 8 else [low, low + self.step, high]


class ChoiceAxis(AxisBase):
    """One of a few values, without an order between them."""

    kind = "choice"
    choice: tuple[StrictBool | StrictInt | StrictFloat | StrictStr, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> ChoiceAxis:
        for position, value in enumerate(self.choice):
            if value in self.choice[:position]:
                raise ValueError(f"choice holds {value!r} twice")
        if self.tie and any(isinstance(value, (bool, str)) for value in self.choice):
            raise ValueError(f"only numbers can be tied to, got the choices {list(self.choice)}")
        return self

    def accept(self, value: Value) -> Value:
        """The choice that equals the value.

        Raises:
            ValueError: there is none.
        """
        for choice in self.choice:
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return choice
        raise ValueError(f"expected one of {', '.join(map(repr, self.choice))}, got {value!r}")

    def samples(self) -> list[Value]:
        """Values whose configs are built when the study is loaded: all of them."""
        return list(self.choice)


def _kind_of(raw: Any) -> str | None:
    keys = raw if isinstance(raw, dict) else getattr(raw, "model_fields_set", ())
    # `int` before `log`, which is also a flag of integer axes.
    return next((kind for kind in ("choice", "int", "uniform", "log") if kind in keys), None)


Axis = Annotated[
    Annotated[LogAxis, Tag("log")]
    | Annotated[UniformAxis, Tag("uniform")]
    | Annotated[IntAxis, Tag("int")]
    | Annotated[ChoiceAxis, Tag("choice")],
    Discriminator(
        _kind_of,
        custom_error_type="axis_kind",
        custom_error_message="an axis is one of { log = [low, high] }, { uniform = [low, high] }, "
        "{ int = [low, high] }, { choice = [a, b] }",
    ),
]
Space = Mapping[str, Axis]


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The axes in Optuna's words, by config path, in the order of the file."""
    # Imported here, as Optuna takes half a second: those who only read a study file (the command line, a
    # check in an editor) are spared it.
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    def translate(axis: Axis) -> BaseDistribution:
        if isinstance(axis, ChoiceAxis):
            return CategoricalDistribution(axis.choice)
        if isinstance(axis, IntAxis):
            return IntDistribution(*axis.int, log=axis.log, step=axis.step)
        if isinstance(axis, UniformAxis):
            return FloatDistribution(axis.low, axis.high, step=axis.step)
        return FloatDistribution(axis.low, axis.high, log=True)

    return {path: translate(axis) for path, axis in space.items()}


def check(space: Space, params: Mapping[str, Value]) -> dict[str, Value]:
    """The values as their axes hold them (whole floats on integer axes become ints).

    Raises:
        SweeperError: an unknown or missing axis, or a value that does not lie on its axis.
    """
    for path in params:
        if path not in space:
            raise SweeperError(
                f"{path} is not searched by this study{did_you_mean(path, space)}; its axes are {', '.join(space)}"
            )
    missing = [path for path in space if path not in params]
    if missing:
        raise SweeperError(f"no value for {', '.join(missing)}: every axis of the study needs one")
    accepted = {}
    for path, axis in space.items():
        try:
            accepted[path] = axis.accept(params[path])
        except ValueError as error:
            raise SweeperError(f"{path}: {error}") from error
    return accepted


def resolve(space: Space, params: Mapping[str, Value]) -> dict[str, Value]:
    """Values for every config path that the space sets: the searched ones and those tied to them.

    Raises:
        SweeperError: as `check`.
    """
    values = check(space, params)
    for path, axis in space.items():
        for follower, ratio in axis.tie.items():
            leader = values[path]
            assert not isinstance(leader, str), f"ties to {path} were checked to be numeric"
            product = leader * ratio
            # Whole products of whole numbers stay ints, so that integer settings can be tied.
            values[follower] = int(product) if isinstance(leader, int) and product == int(product) else product
    return values


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` when something close is known, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f"; did you mean {close[0]!r}?" if close else ""


def _accept_real(value: Value, low: float, high: float) -> float:
    if isinstance(value, (bool, str)) or not low <= value <= high:
        raise ValueError(f"expected a number in [{low}, {high}], got {value!r}")
    return float(value)


def _on_grid(value: float, low: float, step: float) -> bool:
    steps = (value - low) / step
    return math.isclose(steps, round(steps), abs_tol=1e-9)
