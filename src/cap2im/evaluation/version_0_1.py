"""Evaluations in the layout of version 0.1, which had a dictionary for each metric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

METRICS = {  # key of version 0.1 -> name of the metric
    "caption_accuracy": "caption-accuracy",
    "likelihood": "bound",
    "retrieval": "retrieval",
    "similarity": "ssim",
    "fid": "fid",
    "inception_score": "inception-score",
    "r_precision": "r-precision",
    "neural_distance": "neural-distance",
}
BOUND_TERMS = {"bound": "bound", "reconstruction": "reconstruction", "kl": "KL", "importance_weighted": "importance-weighted"}
NORMAL_95 = 1.96


def is_version_0_1(document: Mapping[str, Any]) -> bool:
    """Return whether a document has the layout of version 0.1."""
    return "model" in document and "results" not in document


def upgrade(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of an evaluation in today's layout.

    Args:
        document: an evaluation as version 0.1 wrote it.

    Raises:
        ValueError: it is not an evaluation.
    """
    try:
        results = [{"protocol": protocol, "measurements": [each]} for protocol, each in _measurements(document)]
        words = {key: value for key, value in document.get("asked", {}).items() if value != "None"}
        settings = {key: value for key, value in words.items() if key not in ("similarity", "fid", "neural_distance", "shortlist")}
        settings |= {"shortlist_model": words["shortlist"]} if "shortlist" in words else {}
        settings["metrics"] = " ".join(name for key, name in METRICS.items() if key in document)
        return {"model": document["model"], "weights_sha256": document.get("weights_sha256", ""), "settings": settings, "results": results}
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"not an evaluation of version 0.1: {error}") from None


def _measurements(document: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the protocol and the other fields of each measurement."""
    if accuracy := document.get("caption_accuracy"):
        for part, after in ((accuracy, ""), (accuracy.get("sharpened"), ", sharpened")):
            for group, name in (("seen", "seen"), ("held_out", "held out"), ("all", "all")) if part else ():
                for field, rate in part["drawings"].get(group, {}).items():
                    if field != "n":
                        detail = field != "joint" or group == "all"
                        fields = {"name": field, "group": name + after, "n": part["drawings"][group].get("n", 0), "detail": detail}
                        yield accuracy["protocol"] | _sharpener(part), fields | _rate(rate)
    for bound in (*document.get("other_splits", {}).values(), *filter(None, [document.get("likelihood")])):
        for part, after in ((bound, ""), (bound.get("sharpened"), ", sharpened")):
            for key, name in BOUND_TERMS.items() if part else ():
                if key in part:
                    error = part.get({"bound": "standard_error"}.get(key, f"{key}_error"))
                    fields = {"name": name, "group": bound["protocol"]["split"] + after, "n": bound.get("images", 0), "unit": "nats"}
                    higher = {"reconstruction": False, "kl": None}.get(key, True)
                    fields |= {"detail": key != "bound", "higher_is_better": higher}
                    yield bound["protocol"] | _sharpener(part), fields | _mean(part[key], error, error)
    if retrieval := document.get("retrieval"):
        n = retrieval.get("captions", 0)
        for name in (key for key in retrieval if key.startswith("R@")):
            yield retrieval["protocol"], {"name": name, "n": n} | _rate(retrieval[name])
        rank = retrieval["median_rank"]
        fields = {"name": "median rank", "value": rank["rank"], "interval": (rank["low"], rank["high"]), "chance": rank.get("chance")}
        yield retrieval["protocol"], fields | {"n": n, "digits": 1, "higher_is_better": False}
    if similarity := document.get("similarity"):
        for part, group in ((similarity, ""), (similarity.get("sharpened"), "sharpened")):
            for key, fields in (("ssim", {"name": "SSIM", "digits": 3}), ("psnr", {"name": "PSNR", "unit": "dB"})) if part else ():
                mean = _mean(part[key]["mean"], part[key].get("standard_error"), part[key]["deviation"])
                yield similarity["protocol"] | _sharpener(part), fields | mean | {"group": group, "n": part.get("captions", 0)}
    for key in ("fid", "inception_score", "r_precision", "neural_distance"):
        result = document.get(key) or {}
        for part, group in ((result, ""), (result.get("sharpened"), "sharpened")):
            if part:
                fields = {"group": group, "n": result.get("drawings", 0)}
                yield result["protocol"] | _sharpener(part), fields | _sample_metric(key, part, result)
    if trained := document.get("trained"):
        fields = {"name": "seconds a step", "value": trained["seconds"] / trained["steps"], "n": trained["steps"], "digits": 3}
        yield {"machine": trained["machine"], "batch size": trained["batch_size"]}, fields | {"higher_is_better": None}
    if parameters := document.get("parameters"):
        yield {}, {"name": "parameters", "value": parameters, "n": 1, "digits": 0, "higher_is_better": None}


def _sample_metric(key: str, part: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a metric of drawings."""
    if key == "fid":
        return {"name": "FID", "value": part["distance"], "higher_is_better": False}
    if key == "r_precision":
        return {"name": "R-precision", "chance": 0.01} | _rate(part)
    count = result["protocol"].get("parts", result["protocol"].get("drawings"))  # of the items that the deviation is over
    name = {"name": "Inception Score"} if key == "inception_score" else {"name": "neural distance"}
    return name | _mean(part["mean"], part["deviation"] / count**0.5 if count else None, part["deviation"])


def _rate(rate: Mapping[str, Any]) -> dict[str, Any]:
    fields = {"value": rate["rate"], "interval": (rate["low"], rate["high"]), "unit": "proportion"}
    return fields | ({"chance": rate["chance"]} if "chance" in rate else {})


def _mean(value: float, error: float | None, deviation: float | None) -> dict[str, Any]:
    """Return the fields of a mean with a standard error, and the number printed after ±."""
    interval = None if error is None else (value - NORMAL_95 * error, value + NORMAL_95 * error)
    return {"value": value, "interval": interval, "deviation": deviation}


def _sharpener(part: Mapping[str, Any]) -> dict[str, Any]:
    return {"sharpener": part["sharpener"]} if "sharpener" in part else {}
