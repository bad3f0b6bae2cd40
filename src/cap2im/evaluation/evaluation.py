"""The result of an evaluation, and its JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from cap2im.evaluation.version_0_1 import is_version_0_1, upgrade
from cap2im.metrics.measurement import Measurement

FORMAT = "cap2im evaluation 2"


@dataclass(frozen=True)
class Evaluation:
    """Measurements of one model.

    Attributes:
        model: name of the model.
        weights_sha256: of its weights.
        settings: everything beside the weights that decides the numbers; evaluations of equal weights and settings are equal.
        measurements: the numbers.
    """

    model: str
    weights_sha256: str
    settings: Mapping[str, str]
    measurements: tuple[Measurement, ...]

    def find(self, name: str, group: str = "") -> Measurement:
        """Return a measurement.

        Args:
            name: of the quantity.
            group: of the items.

        Raises:
            KeyError: it was not measured.
        """
        for measurement in self.measurements:
            if (measurement.name, measurement.group) == (name, group):
                return measurement
        raise KeyError(f"{name}, {group}: not among {', '.join(each.title for each in self.measurements)}")

    @property
    def identity(self) -> tuple[str, dict[str, str]]:
        """Weights and settings."""
        return self.weights_sha256, dict(self.settings)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, with the measurements of one protocol together."""
        return {
            "format": FORMAT,
            "model": self.model,
            "weights_sha256": self.weights_sha256,
            "settings": dict(self.settings),
            "results": [
                {"protocol": measurements[0].protocol, "measurements": [_without_protocol(each) for each in measurements]}
                for measurements in by_protocol(self.measurements)
            ],
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Evaluation:
        """Read JSON values, also those that version 0.1 wrote.

        Args:
            document: of `to_dict`.

        Raises:
            ValueError: it is not an evaluation.
        """
        if is_version_0_1(document):
            document = upgrade(document)
        file = _Document.model_validate({key: document[key] for key in _Document.model_fields if key in document})
        measurements = [
            Measurement.model_validate(each | {"protocol": result.protocol}) for result in file.results for each in result.measurements
        ]
        return cls(file.model, file.weights_sha256, file.settings, tuple(measurements))


class _Result(BaseModel):
    """Measurements of one protocol in a file."""

    model_config = ConfigDict(extra="forbid")

    protocol: dict[str, Any]
    measurements: list[dict[str, Any]]


class _Document(BaseModel):
    """An evaluation in a file."""

    model: str
    weights_sha256: str
    settings: dict[str, str]
    results: list[_Result]


def by_protocol(measurements: tuple[Measurement, ...]) -> Iterator[list[Measurement]]:
    """Group measurements by their protocols, in the order of their first ones."""
    groups: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        groups.setdefault(json.dumps(measurement.protocol, sort_keys=True), []).append(measurement)
    yield from groups.values()


def _without_protocol(measurement: Measurement) -> dict[str, Any]:
    return measurement.model_dump(mode="json", exclude={"protocol"}, exclude_defaults=True)
