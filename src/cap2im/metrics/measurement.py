"""The result of a metric."""

from __future__ import annotations

import base64
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator
from torch import Tensor

from cap2im.metrics.intervals import NORMAL_95, mean_and_error, wilson

Statistic = Literal["mean", "median"]


class ItemValues(BaseModel):
    """The values of single items, of which a number is the mean or the median; comparisons resample them.

    In JSON they are the Base64 text of little-endian float32 numbers: 5.3 kB for 1,000 items.

    Attributes:
        values: of the items, in float32.
        statistic: what the number is of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    values: tuple[float, ...] = Field(min_length=1)
    statistic: Statistic = "mean"

    @classmethod
    def of(cls, values: Tensor, statistic: Statistic = "mean") -> ItemValues:
        """Return the values of a tensor [N]."""
        return cls(values=tuple(values.float().tolist()), statistic=statistic)

    @field_serializer("values", when_used="json")
    def _to_text(self, values: tuple[float, ...]) -> str:
        return base64.b64encode(np.array(values, "<f4").tobytes()).decode()

    @field_validator("values", mode="before")
    @classmethod
    def _from_text(cls, values: Any) -> Any:
        """Read Base64 text; other values are validated as they are."""
        return tuple(np.frombuffer(base64.b64decode(values, validate=True), "<f4").tolist()) if isinstance(values, str) else values


class Measurement(BaseModel):
    """A number with its uncertainty, and everything that must be equal for two numbers to be compared.

    Attributes:
        name: name of the quantity, e.g. "joint".
        value: the number; a proportion is in 0..1.
        n: number of items that the number is computed from.
        interval: 95 % interval; None if it is unknown.
        protocol: JSON values that describe how the number was measured; only numbers of equal protocols are compared.
        group: subset of the items, e.g. a split or "held out"; empty for all.
        unit: unit of `value`; a proportion is printed as a percentage.
        digits: decimal places in print.
        deviation: number printed after ±, in place of the interval.
        deviation_of: what it is, for the text below a table, e.g. "standard deviation over drawings".
        chance: value that guessing has; None if it is unknown.
        higher_is_better: None if neither direction is.
        detail: whether comparisons of models leave the number out.
        per_item: values of the single items; None if they are not kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    value: float
    n: int = Field(ge=0)
    interval: tuple[float, float] | None = None
    protocol: dict[str, Any] = Field(default_factory=dict)
    group: str = ""
    unit: Literal["", "proportion", "nats", "dB"] = ""
    digits: int = Field(2, ge=0, le=9)
    deviation: float | None = None
    deviation_of: str = ""
    chance: float | None = None
    higher_is_better: bool | None = True
    detail: bool = False
    per_item: ItemValues | None = None

    @property
    def title(self) -> str:
        """Name, group and unit, e.g. "joint, held out, %"."""
        unit = "%" if self.unit == "proportion" else self.unit
        return ", ".join(part for part in (self.name, self.group, unit) if part)

    @property
    def text(self) -> str:
        """The number in print, followed by its deviation or its interval."""
        if self.deviation is not None:
            return f"{self.number(self.value)} ± {self.number(self.deviation)}"
        if self.interval is not None:
            return f"{self.number(self.value)} ({self.number(self.interval[0])}-{self.number(self.interval[1])})"
        return self.number(self.value)

    @property
    def figures(self) -> dict[str, float]:
        """Rate, ends of its interval and number of trials, as model cards print them."""
        assert self.interval is not None
        return {"rate": self.value, "low": self.interval[0], "high": self.interval[1], "n": self.n}

    def number(self, value: float) -> str:
        """Return a value of this quantity in print, without its unit."""
        if self.unit == "proportion":
            return f"{100 * value:.1f}"
        return f"{value:.{self.digits}f}" if self.digits else f"{value:,.0f}"

    def in_group(self, group: str, **protocol: Any) -> Measurement:
        """Return the measurement as one of a group, with more entries in its protocol.

        Args:
            group: appended to the group that the measurement has.
            **protocol: entries to add.
        """
        groups = ", ".join(part for part in (self.group, group) if part)
        return self.model_copy(update={"group": groups, "protocol": protocol | self.protocol})


def proportion(name: str, successes: float, n: int, **fields: Any) -> Measurement:
    """Return a proportion with its Wilson interval.

    Args:
        name: of the quantity.
        successes: may be fractional; a tie can count as part of a success.
        n: number of trials, at least 1.
        **fields: other fields of the `Measurement`.
    """
    return Measurement(name=name, value=successes / n, n=n, interval=wilson(successes, n), unit="proportion", **fields)


def mean(name: str, values: Tensor, **fields: Any) -> Measurement:
    """Return the mean of values [N] with its normal interval, which is None if N is 1.

    Args:
        name: of the quantity.
        values: [N].
        **fields: other fields of the `Measurement`.
    """
    centre, error = mean_and_error(values)
    interval = (centre - NORMAL_95 * error, centre + NORMAL_95 * error) if len(values) > 1 else None
    return Measurement(name=name, value=centre, n=len(values), interval=interval, **fields)
