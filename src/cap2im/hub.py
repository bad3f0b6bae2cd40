"""The Hugging Face hub: repositories of models, and licences in the format of its cards."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from cap2im._version import __version__
from cap2im.files import explain

logger = logging.getLogger(__name__)

ENCODER_FILES = ("*.json", "*.txt", "*.safetensors", "*.model")  # files of a sentence encoder; none holds code


def is_repository(name: str) -> bool:
    """Return whether a name has the form OWNER/NAME or OWNER/NAME@REVISION and there is no folder OWNER."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w-][\w.-]*)?", name) is not None and not Path(name).parent.is_dir()


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
        repository: OWNER/NAME, or OWNER/NAME@REVISION with a commit, tag or branch.
        include: patterns of files to download.
        exclude: patterns of files to leave out.
        ask_hub: False reads only the cache.

    Raises:
        ValueError: the repository or the revision does not exist, or is not in the cache and there is no network.
    """
    from huggingface_hub import snapshot_download  # slow to import
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    owner_and_name, _, revision = repository.partition("@")
    snapshot = partial(
        snapshot_download, owner_and_name, revision=revision or None, allow_patterns=list(include), ignore_patterns=list(exclude)
    )
    if not ask_hub:
        try:
            return Path(snapshot(local_files_only=True))
        except (LocalEntryNotFoundError, ValueError, OSError):
            reason = "names in a config are not downloaded from the Hugging Face hub"
            command = f"hf download {owner_and_name}" + (f" --revision {revision}" if revision else "")
            raise ValueError(f"{repository}: not on this machine, and {reason}: {command} downloads it") from None
    logger.info("looking for %s on the Hugging Face hub", repository)
    try:  # without a network it returns the cached folder
        return Path(snapshot())
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"no folder {repository!r} here, and it cannot be downloaded from the Hugging Face hub: {_reason(error)}"
        ) from None


def _reason(error: Exception) -> str:
    """Return an error of the hub or of the network as a phrase."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, RevisionNotFoundError):
        return "no such revision"
    if isinstance(error, GatedRepoError):
        return "its page asks for consent first"
    if isinstance(error, RepositoryNotFoundError):
        return "no such repository, or a private one that the token cannot read"
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        return "the token is not valid, or has no right to write there"
    return explain(ValueError(next(iter(str(error).strip().splitlines()), type(error).__name__).removeprefix("Got: ")))


def upload(repository: str, files: Mapping[str, Path | bytes], *, private: bool) -> str:
    """Upload files to a repository of a model in one commit; a missing repository is created.

    Args:
        repository: OWNER/NAME.
        files: path in the repository -> file or content.
        private: of a new repository; an existing one keeps its visibility.

    Returns:
        the commit's identifier.

    Raises:
        ValueError: nobody is logged in, the hub cannot be reached, or it refuses the upload.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if get_token() is None:
        raise ValueError("not logged in to the Hugging Face hub: hf auth login stores a token, or HF_TOKEN holds one")
    api = HfApi(library_name="cap2im", library_version=__version__)
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        return api.create_commit(repository, operations, commit_message=f"Upload a model of cap2im {__version__}").oid
    except Exception as error:  # the HTTP client's errors differ between versions of huggingface_hub
        if not isinstance(error, HfHubHTTPError | OSError) and "http" not in type(error).__module__:
            raise
        raise ValueError(f"{repository}: cannot be uploaded to the Hugging Face hub: {_reason(error)}") from None
