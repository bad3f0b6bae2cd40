"""The Hugging Face hub: repositories of models, and licences in the format of its cards."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from cap2im.files import explain

logger = logging.getLogger(__name__)

ENCODER_FILES = ("*.json", "*.txt", "*.safetensors", "*.model")  # files of a sentence encoder; none holds code


def is_repository(name: str) -> bool:
    """Return whether a name has the form OWNER/NAME and there is no folder OWNER."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None and not Path(name).parent.is_dir()


@contextmanager
def offline_if_unreachable(dataset: str) -> Iterator[None]:
    """Make `datasets` read its cache if the hub is unreachable, instead of retrying for half a minute and logging each attempt."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    before = constants.HF_HUB_OFFLINE
    try:
        HfApi().dataset_info(dataset, timeout=10)
    except HfHubHTTPError:  # the hub has responded; datasets reports the error
        pass
    except Exception:  # the HTTP client's errors differ between versions of huggingface_hub
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def licence_lines(licence: str) -> str:
    """Return the YAML lines of a licence for a card's header: an identifier, else a name; empty for an empty licence."""
    if not licence:
        return ""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", licence):
        return f"license: {licence.lower()}\n"
    return f"license: other\nlicense_name: {json.dumps(licence)}\n"


def download(repository: str, include: Sequence[str], exclude: Sequence[str] = (), *, ask_hub: bool = True) -> Path:
    """Download files of a repository, and return their folder; without a network, return the cached one.

    Args:
        repository: OWNER/NAME.
        include: patterns of files to download.
        exclude: patterns of files to leave out.
        ask_hub: False reads only the cache.

    Raises:
        ValueError: the repository does not exist, or is not in the cache and there is no network.
    """
    from huggingface_hub import snapshot_download  # slow to import
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    snapshot = partial(snapshot_download, repository, allow_patterns=list(include), ignore_patterns=list(exclude))
    if not ask_hub:
        try:
            return Path(snapshot(local_files_only=True))
        except (LocalEntryNotFoundError, ValueError, OSError):
            reason = "names in a config are not downloaded from the Hugging Face hub"
            raise ValueError(f"{repository}: not on this machine, and {reason}: hf download {repository} downloads it") from None
    logger.info("looking for %s on the Hugging Face hub", repository)
    try:  # without a network it returns the cached folder
        return Path(snapshot())
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = explain(ValueError(str(error).strip().splitlines()[0].removeprefix("Got: ")))
        raise ValueError(f"no folder {repository!r} here, and it cannot be downloaded from the Hugging Face hub: {reason}") from None
