"""Which file does `reference.nemo` name? A bundled model, a path, or a model on the Hugging Face hub.

The hub is asked last, and only for a name of the form `owner/model`: first its local cache, then, if it can be
reached within seconds, the hub itself.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

from layerdiff.errors import CheckpointError, known_names

BUNDLED = ("parakeet-tdt-mini",)
"""Models that come with the package."""

HUB_TIMEOUT_S = 3.0
"""How long to wait for the hub's first answer."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_name(text: str) -> bool:
    """Whether a text has the form `owner/model`."""
    return _HUB_NAME.fullmatch(text) is not None


def locate(name: str | Path) -> Path:
    """The checkpoint file that a name means.

    Raises:
        CheckpointError: there is no such file, or it can't be had from the hub.
    """
    if str(name) in BUNDLED:
        return _bundled(str(name))
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise CheckpointError(
            f"the checkpoint '{name}' is a folder.", where=str(path), action="Give the path of a .nemo file."
        )
    if path.suffix != ".nemo" and is_hub_name(str(name)):
        return _from_hub(str(name))
    raise CheckpointError(
        f"the checkpoint '{name}' doesn't exist.",
        where="reference.nemo",
        detail=known_names("bundled models", str(name), BUNDLED),
        action="Give a bundled name, the path of a .nemo file, or a name on the hub such as "
        "'nvidia/parakeet-tdt-0.6b-v3'.",
    )


def _bundled(name: str) -> Path:
    """A model that comes with the package.

    Raises:
        CheckpointError: the installation lacks it.
    """
    path = Path(str(resources.files("layerdiff") / "assets" / f"{name}.nemo"))
    if not path.is_file():
        raise CheckpointError(
            f"the bundled checkpoint '{name}' is missing from this installation.",
            where=str(path),
            action="Install layerdiff again.",
        )
    return path


def _from_hub(repository: str) -> Path:
    """NeMo's convention: the file is called as its repository, with `.nemo`."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    http_errors: tuple[Any, ...] = (
        HfHubHTTPError.__bases__
    )  # OSError, and the HTTPError of whichever client the hub uses
    file_name = repository.partition("/")[2] + ".nemo"
    try:
        cached = try_to_load_from_cache(repository, file_name)
        if isinstance(cached, str):
            return Path(cached)
        # hf_hub_download retries an unreachable hub for 23 s; this asks once
        get_hf_file_metadata(hf_hub_url(repository, file_name), timeout=HUB_TIMEOUT_S)
        return Path(hf_hub_download(repository, file_name, etag_timeout=HUB_TIMEOUT_S))
    except (*http_errors, HFValidationError) as error:
        raise CheckpointError(
            f"the checkpoint '{repository}' is not on this machine and can't be fetched from the hub.",
            where="reference.nemo",
            detail=f"expected '{file_name}' in the Hugging Face cache, or the hub's answer; got {type(error).__name__}",
            action=f"Give the path of {file_name}, or fetch it once on a machine with a network: "
            f"hf download {repository} {file_name}",
        ) from error
