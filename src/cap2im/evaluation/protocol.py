"""Protocols in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from cap2im.files import counted


def in_words(protocol: Mapping[str, Any]) -> str:
    """Return a protocol as a phrase; it contains every entry, so that different protocols have different phrases."""
    rest = dict(protocol)
    phrases = []
    if "side" in rest:
        colours = f" in {_count(rest.pop('colours'), 'colour')}" if "colours" in rest else ""
        phrases.append(f"{rest['side']} x {rest.pop('side')} pixels{colours}")
    if "samples" in rest:
        count = rest.pop("samples")
        phrases.append(f"{_count(count, 'drawing')} a caption" if "window" in rest else f"{_count(count, 'posterior sample')} an image")
    phrases += [_phrase(key, rest.pop(key)) for key in PHRASES if key in rest]
    return ", ".join([*phrases, *(_default_phrase(key, value) for key, value in rest.items())])


def _phrase(key: str, value: Any) -> str:
    """Return the phrase of an entry; a value of an unexpected type, as in an edited file, is printed as it is."""
    try:
        return PHRASES[key](value)
    except (TypeError, ValueError, AttributeError):
        return _default_phrase(key, value)


def _default_phrase(key: str, value: Any) -> str:
    return f"{key.replace('_', ' ')} {_plain(value)}"


def _count(number: Any, noun: str) -> str:
    return counted(number, noun) if isinstance(number, int) else f"{noun}s {_plain(number)}"


def _data(data: Any) -> str:
    if not isinstance(data, Mapping):
        return f"captioned digits ({data})"
    return f"dataset {source_name(data)} with SHA-256 {_plain(data.get('sha256'))}"


def _hidden(digits: list[list[int]]) -> str:
    return " ".join("-".join(map(str, hidden)) for hidden in digits)


PHRASES: dict[str, Callable[[Any], str]] = {
    "images": lambda value: _count(value, "image"),
    "drawings": lambda value: _count(value, "drawing"),
    "captions": lambda value: _count(value, "caption") if isinstance(value, int) else f"captions with SHA-256 {_plain(value)}",
    "samples_per_caption": lambda value: f"{_count(value, 'drawing')} a caption",
    "left_out": lambda value: f"{_count(value, 'caption')} with unknown words left out",
    "split": lambda value: f"{value} split",
    "configurations": lambda value: f"captions {value} in training",
    "data": _data,
    "cutouts": lambda value: f"cut-outs with SHA-256 {_plain(value)}",
    "digits": lambda value: f"digits with SHA-256 {_plain(value)}",
    "held_out": lambda value: f"held-out digits of each layout {_hidden(value)}",
    "validation_held_out": lambda value: f"digits held out for validation {_hidden(value)}",
    "variant": lambda value: f"canvases of the {value} variant",
    "resize": lambda value: f"images fitted by {value}",
    "observation": lambda value: f"{value} pixels",
    "shortlist": lambda value: f"shortlists of {value.get('extractor') or value.get('file')} with SHA-256 {_plain(value.get('sha256'))}",
    "candidates": lambda value: f"{value:,} candidates",
    "training_captions": lambda value: f"mean of {value:,} training captions",
    "window": lambda value: f"SSIM window of {value} pixels",
    "data_range": lambda value: f"pixels in 0 to {value:g}",
    "reader": lambda value: f"reader with SHA-256 {_plain(value)}",
    "scene_reader": lambda value: f"scene reader with SHA-256 {_plain(value)}",
    "damsm": lambda value: f"DAMSM with SHA-256 {_plain(value)}",
    "wrong_captions": lambda value: f"{value} wrong captions",
    "inception": lambda value: f"Inception weights with SHA-256 {_plain(value)}",
    "pictures": lambda value: f"pictures resized {value}",
    "features": lambda value: f"{value:,} features",
    "real_images": lambda value: f"{value:,} real images",
    "parts": lambda value: f"{value} parts",
    "sharpener": lambda value: f"sharpener {value.get('name')} with SHA-256 {_plain(value.get('sha256'))}",
    "seed": lambda value: f"seed {value}",
    "precision": lambda value: f"drawn in {value}",
    "device": lambda value: f"on {value}",
    "torch": lambda value: f"torch {value}",
    "cap2im": lambda value: f"cap2im {value}",
    "version": lambda value: f"version {value} of the metric",
}
"""The phrase of each entry of a protocol, in the order of printing; other entries follow."""


def _plain(value: Any) -> str:
    """Return a protocol's value in print; SHA-256 digests are cut to 12 digits."""
    text = json.dumps(value) if isinstance(value, (list, dict)) else str(value)
    return text[:12] if len(text) == 64 and all(c in "0123456789abcdef" for c in text) else text


def source_name(about: Mapping[str, Any]) -> str:
    """Return the display name of a prepared dataset: its title, or the last part of its source's path with the kind.

    Args:
        about: of `PreparedDataset.about`.
    """
    if isinstance(title := about.get("title"), str) and title:
        return title
    source = about.get("source", {})
    kind, path = source.get("kind", "unknown"), str(source.get("path", ""))
    name = path if kind == "huggingface" and "/" in path else PurePath(path).name
    return f"{name} ({kind})" if name else f"a source of kind {kind}"
