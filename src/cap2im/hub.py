"""Models of the Hugging Face hub."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cap2im.files import explain

logger = logging.getLogger(__name__)

ENCODER_FILES = ("*.json", "*.txt", "*.safetensors", "*.model")  # all that a sentence encoder needs; none of them holds code


def is_repository(name: str) -> bool:
    """Whether a name has the form OWNER/NAME, and is not a folder that is missing here: there is no folder OWNER."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None and not Path(name).parent.is_dir()


@contextmanager
def offline_if_unreachable(dataset: str) -> Iterator[None]:
    """Let `datasets` read its cache at once where the hub does not answer; it would retry for half a minute and log each attempt."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    before = constants.HF_HUB_OFFLINE
    try:
        HfApi().dataset_info(dataset, timeout=10)
    except HfHubHTTPError:  # the hub answered; datasets says what is wrong
        pass
    except Exception:  # of the HTTP client, which huggingface_hub changes from version to version
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def licence_lines(licence: str) -> str:
    """Return a licence, one line of text, as the YAML header of a card has it: an identifier, or else a name; empty if it is not known."""
    if not licence:
        return ""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", licence):
        return f"license: {licence.lower()}\n"
    return f"license: other\nlicense_name: {json.dumps(licence)}\n"


def download(repository: str, wanted: Sequence[str], unwanted: Sequence[str] = (), *, ask: bool = True) -> Path:
    """The folder of a repository's files, from the hub or, without a network, from the cache. Says so on standard error.

    Args:
        repository: OWNER/NAME.
        wanted: patterns of the files to take.
        unwanted: patterns of those among them to leave.
        ask: the hub; False reads the cache of this machine alone.

    Raises:
        ValueError: there is no such repository, or no network and nothing in the cache.
    """
    from huggingface_hub import snapshot_download  # slow to import
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if not ask:
        try:
            return Path(snapshot_download(repository, allow_patterns=list(wanted), ignore_patterns=list(unwanted), local_files_only=True))
        except (LocalEntryNotFoundError, ValueError, OSError):
            reason = "and the Hugging Face hub is not asked for what only a config names"
            raise ValueError(f"{repository}: not on this machine, {reason}: hf download {repository} fetches it") from None
    logger.info("looking for %s on the Hugging Face hub", repository)
    try:  # without a network this answers what is in the cache
        return Path(snapshot_download(repository, allow_patterns=list(wanted), ignore_patterns=list(unwanted)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = explain(ValueError(str(error).strip().splitlines()[0].removeprefix("Got: ")))
        raise ValueError(f"no folder {repository!r} here, and it cannot be had from the Hugging Face hub: {reason}") from None
