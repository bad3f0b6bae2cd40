"""Legacy parameters: checks of names, shapes and values, and models filled with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn

Tensors = Mapping[str, Tensor]
Model = TypeVar("Model", bound=nn.Module)

_COUNTERS = "num_batches_tracked"  # of batch normalisation; files of torch before 0.4.1 lack them


def build_model(make: Callable[[], Model], layout: Callable[[Model], Mapping[str, Tensor]], tensors: Tensors) -> Model:
    """Return a model filled with legacy parameters. Names and shapes are checked before it takes any memory.

    Args:
        make: returns the model.
        layout: returns views into a model's parameters by their legacy names.
        tensors: the legacy parameters.

    Raises:
        ValueError: the sizes are out of range, parameters are missing or surplus, or their shapes do not match.
    """
    try:
        with torch.device("meta"):
            expected = layout(make())
    except ValidationError as error:
        raise ValueError("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])) from None
    except RuntimeError as error:
        raise ValueError(f"sizes that no machine can hold: {' '.join(str(error).split())[:200]}") from None
    optional = {name for name in expected if name.endswith(_COUNTERS)}
    differences = {"missing": set(expected) - optional - set(tensors), "surplus": set(tensors) - set(expected)}
    problems = [
        f"{label}: {', '.join(sorted(names)[:4])}" + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        for label, names in differences.items()
        if names
    ]
    if problems:
        raise ValueError("; ".join(problems))
    check_shapes({name: tuple(view.shape) for name, view in expected.items() if name in tensors}, tensors)
    model = make()
    fill({name: view for name, view in layout(model).items() if name in tensors}, tensors)
    return model


def check_axes(tensors: Tensors, axes: Mapping[str, int]) -> None:
    """Check the number of axes of the parameters that sizes are inferred from.

    Raises:
        ValueError: a parameter is missing or has another number of axes.
    """
    if missing := sorted(set(axes) - set(tensors)):
        raise ValueError(f"missing: {', '.join(missing)}")
    wrong = [
        f"{name} has shape {list(tensors[name].shape)}, expected {count} axes"
        for name, count in axes.items()
        if tensors[name].dim() != count
    ]
    if wrong:
        raise ValueError("; ".join(wrong))


def check_shapes(expected: Mapping[str, tuple[int, ...]], tensors: Tensors) -> None:
    """Check the shapes and values of parameters.

    Raises:
        ValueError: a parameter has another shape than the others imply, or is not finite.
    """
    wrong = [
        f"{name} has shape {list(tensors[name].shape)}, the others imply {list(shape)}"
        for name, shape in expected.items()
        if tuple(tensors[name].shape) != shape
    ]
    wrong += [f"{name} is not finite" for name in expected if not tensors[name].isfinite().all()]
    if wrong:
        raise ValueError("; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""))


def fill(views: Mapping[str, Tensor], tensors: Tensors) -> None:
    """Copy parameters into a model's views of the same names.

    Raises:
        ValueError: a shape does not match.
    """
    check_shapes({name: tuple(view.shape) for name, view in views.items()}, tensors)
    for name, view in views.items():
        view.copy_(tensors[name])


def picture_sides(name: str, count: int) -> tuple[int, int]:
    """Return the colours, 1 or 3, and the side of square pictures with `count` numbers; at most one is possible.

    Raises:
        ValueError: no square picture has that many numbers.
    """
    for colours in (1, 3):
        if count > 0 and count % colours == 0 and math.isqrt(count // colours) ** 2 == count // colours:
            return colours, math.isqrt(count // colours)
    raise ValueError(f"{name}: {count} numbers are not a square picture of 1 or 3 colours")
