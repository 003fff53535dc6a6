"""Is this `.nemo` archive safe to open, and what is in it?

A `.nemo` file is a tar archive, plain or gzipped, of a model's configuration, its weights and the files of its
tokenizer, and usually comes from the internet. Three things in it could reach beyond the model: member names
(`../../.bashrc`), the configuration (hydra instantiates whatever `_target_` names) and pickled weights. The
first two are dealt with here, before NeMo is imported; the weights by `nemo_restore`, which unpickles tensors
only. Everything is unpacked into a temporary folder that is removed when the context ends.
"""

from __future__ import annotations

import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path, PurePosixPath
from typing import IO, Any

from layerdiff.errors import CheckpointError

CONFIG_NAME = "model_config.yaml"
WEIGHTS_NAME = "model_weights.ckpt"

TARGET_KEYS = ("_target_", "target", "cls")
"""Configuration keys whose value NeMo or hydra imports and calls."""
TARGET_PREFIXES = (
    "nemo.collections.asr.",
    "nemo.collections.common.",
    "nemo.core.classes.mixins.adapter_mixin_strategies.",
    "torch.nn.",
)
"""What such a value must begin with; `nemo_restore` checks afterwards that it is a module class."""

UNUSED_SECTIONS = ("train_ds", "test_ds", "optim", "nsys_profile", "memory_profile", "chakra_profile")
"""Sections that only training reads; they are dropped, so that nothing they name is opened."""

DEFAULT_MAX_SYMBOLS = 10
"""Tokens per frame where the configuration sets no limit; NeMo's own default."""

GREEDY_CTC: Mapping[str, Any] = {"strategy": "greedy"}
"""Without confidences, language models and alignments."""

MULTITASK_SECTIONS: Mapping[str, Any] = {
    "decoding": {"strategy": "greedy", "greedy": {"temperature": None, "n_samples": 1, "max_generation_delta": -1}},
    "multitask_metrics_cfg": {"metrics": {"wer": {"_target_": "nemo.collections.asr.metrics.WER"}}},
    "restore_timestamps_model": False,
}
"""What a model with a prompt (Canary) gets instead of its own: no beam, no further metrics, and no second model, which
NeMo would restore from the archive in its own way."""

MAX_MEMBERS = 1_000
MAX_CONFIG_BYTES = 16 * 2**20
MAX_UNPACKED_BYTES = 64 * 2**30
MAX_EXPANSION = 50
"""Unpacked size over archive size; weights hardly compress, so more is a decompression bomb."""
FREE_EXPANSION_BYTES = 2**20

_PLAIN_TAG = re.compile(r"tag:yaml\.org,2002:[a-z]+")
_CHUNK_BYTES = 2**20
_DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, ValueError)
"""What tarfile raises for bytes that are no archive, or no longer one."""
_ACTION = "Download the checkpoint again, or ask where it comes from."


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The archive in a temporary folder, which holds plain files only.

    Raises:
        CheckpointError: the file is missing or damaged, lacks its configuration or weights, or has a
            member that is unsafe.
    """
    with tempfile.TemporaryDirectory(prefix="layerdiff-nemo-") as name:
        folder = Path(name)
        try:
            with path.open("rb") as file, tarfile.open(fileobj=file, mode=_mode(file)) as archive:
                _unpack(archive, folder, path)
        except _DAMAGE as error:
            raise CheckpointError(
                f"the checkpoint '{path.name}' can't be unpacked: {_sentence(error)}.", where=str(path), action=_ACTION
            ) from error
        for member in (CONFIG_NAME, WEIGHTS_NAME):
            if not (folder / member).is_file():
                raise CheckpointError(
                    f"the checkpoint '{path.name}' holds no '{member}'.",
                    where=str(path),
                    detail=f"it holds: {', '.join(sorted(p.name for p in folder.iterdir())) or 'nothing'}",
                    action=_ACTION,
                )
        yield folder


def _mode(file: IO[bytes]) -> Any:
    """tarfile's mode for a plain or a gzipped archive; no other compression is NeMo's."""
    magic = file.read(2)
    file.seek(0)
    return "r:gz" if magic == b"\x1f\x8b" else "r:"


def _sentence(error: BaseException) -> str:
    """An exception's own words, without a full stop."""
    return (str(error) or type(error).__name__).rstrip(".")


def _unpack(archive: tarfile.TarFile, folder: Path, path: Path) -> None:
    """Writes the members one by one, each checked before a byte of it is written."""
    budget = min(MAX_UNPACKED_BYTES, MAX_EXPANSION * path.stat().st_size + FREE_EXPANSION_BYTES)
    for count, member in enumerate(archive):
        target = _safe_target(member, folder, path)
        budget -= member.size
        if budget < 0 or count >= MAX_MEMBERS:
            raise _unsafe(member, path, "is larger than a checkpoint of this size can be")
        if member.size > shutil.disk_usage(folder).free:
            raise CheckpointError(
                f"there is no room to unpack '{path.name}'.",
                where=str(folder),
                detail=f"expected {member.size} bytes for {member.name}, got {shutil.disk_usage(folder).free}",
                action="Free some space, or set TMPDIR to a larger disk.",
            )
        if member.isreg() and target != folder:
            _write(archive, member, target)


def _safe_target(member: tarfile.TarInfo, folder: Path, path: Path) -> Path:
    """Where a member goes: always inside the folder, never over another one."""
    parts = [part for part in PurePosixPath(member.name).parts if part != "."]
    if member.name.startswith("/") or ".." in parts or re.search(r"[\\:\0]", member.name):
        raise _unsafe(member, path, "has a path that leads out of the archive")
    if member.issparse() or not (member.isreg() or member.isdir()):
        raise _unsafe(member, path, "is neither a file nor a folder")
    target = folder.joinpath(*parts)
    if member.isreg() and (not parts or target.exists()):
        raise _unsafe(member, path, "is there twice")
    if member.name.endswith(CONFIG_NAME) and member.size > MAX_CONFIG_BYTES:
        raise _unsafe(member, path, "is larger than a configuration can be")
    return target


def _unsafe(member: tarfile.TarInfo, path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint '{path.name}' is unsafe to open: its member '{member.name}' {why}.",
        where=str(path),
        action="Don't use this file; get the checkpoint from its publisher.",
    )


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """Copies a member's bytes; nothing of its owner or mode.

    Raises:
        EOFError: the archive ends within the member.
    """
    source = archive.extractfile(member)
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with target.open("wb") as file:
        while source and (chunk := source.read(_CHUNK_BYTES)):
            written += file.write(chunk)
    if written != member.size:
        raise EOFError(f"it ends within '{member.name}', after {written} of {member.size} bytes")


# ------------------------------------------------------------------ configuration


def read_config(folder: Path, *, checkpoint: str) -> dict[str, Any]:
    """The model's configuration, resolved, without what only training reads.

    Args:
        folder: an unpacked archive.
        checkpoint: its name, for messages.

    Raises:
        CheckpointError: it isn't readable YAML, uses aliases, tags or resolvers, or names something to
            import that isn't a part of a NeMo speech model, or a file that isn't in the archive.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    path = folder / CONFIG_NAME
    try:
        _refuse_aliases_and_tags(path)
        config = OmegaConf.load(path)
        _refuse_resolvers(OmegaConf.to_container(config, resolve=False))
        plain = OmegaConf.to_container(config, resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise _bad_config(checkpoint, f"can't be read: {_sentence(error).splitlines()[0]}") from error
    if not isinstance(plain, dict):
        raise _bad_config(checkpoint, "is not a mapping")
    model = plain["model"] if isinstance(plain.get("model"), dict) else plain
    config_of_model = {str(key): value for key, value in model.items()}
    if not isinstance(model.get("target"), str):
        raise _bad_config(checkpoint, "doesn't say which model it is: it has no 'target'")
    _check_values(config_of_model, folder, checkpoint)
    _bind_tokenizer(config_of_model.get("tokenizer"), folder, checkpoint)
    return _reduced(config_of_model)


def _bad_config(checkpoint: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"the configuration of '{checkpoint}' {why}.", where=f"{checkpoint}, {CONFIG_NAME}", action=_ACTION
    )


def _refuse_aliases_and_tags(path: Path) -> None:
    """Aliases can expand exponentially and tags can construct objects; NeMo writes neither."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for event in yaml.parse(path.read_text(encoding="utf-8"), Loader=loader):
        tag = getattr(event, "tag", None) or ""
        if isinstance(event, yaml.AliasEvent) or (tag and not _PLAIN_TAG.fullmatch(tag)):
            raise ValueError(f"line {getattr(event.start_mark, 'line', 0) + 1} holds an alias or a tag")


def _refuse_resolvers(value: Any) -> None:
    """`${a.b}` is a reference; `${oc.env:HOME}` calls something."""
    for _, text in _strings(value):
        if "${" in text and ":" in text:
            raise ValueError(f"'{text}' calls a resolver")


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string below a value, with the key that it is under."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _strings(item, str(name))
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, key)


def _check_values(config: Mapping[str, Any], folder: Path, checkpoint: str) -> None:
    """Refuses targets outside the allow-list and files outside the archive."""
    for key, text in _strings(config):
        if key in TARGET_KEYS and not is_allowed_target(text):
            raise CheckpointError(
                f"the configuration of '{checkpoint}' would call '{text}', which is not a part of a speech model.",
                where=f"{checkpoint}, {CONFIG_NAME}, {key}",
                detail=f"expected a name that begins with {', '.join(TARGET_PREFIXES)}",
                action="Don't use this file; get the checkpoint from its publisher.",
            )
        if text.startswith("nemo:") and not _is_member(text.removeprefix("nemo:"), folder):
            raise _bad_config(checkpoint, f"names the file '{text}', which is not in the archive")


def is_allowed_target(name: str) -> bool:
    """Whether a dotted name lies where parts of speech models live."""
    parts = name.split(".")
    return name.startswith(TARGET_PREFIXES) and all(part.isidentifier() and part[0] != "_" for part in parts)


def _is_member(name: str, folder: Path) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and (folder / name).is_file()


def _bind_tokenizer(tokenizer: Any, folder: Path, checkpoint: str) -> None:
    """Makes the tokenizer's files those of the archive, whatever lies on this machine under the same path."""
    if not isinstance(tokenizer, dict):
        return
    if str(tokenizer.get("type", "bpe")).lower() not in ("bpe", "agg"):
        raise _bad_config(checkpoint, f"has a tokenizer of type '{tokenizer['type']}', which is not in the archive")
    for key, value in tokenizer.items():
        if key == "dir":
            tokenizer[key] = str(folder)
        elif isinstance(value, dict):
            for language in value.values():
                _bind_tokenizer(language, folder, checkpoint)
        elif key.endswith(("_path", "_vocab")) and isinstance(value, str) and not value.startswith("nemo:"):
            name = PurePosixPath(value).name
            if not _is_member(name, folder):
                raise _bad_config(checkpoint, f"names the file '{value}', which is not in the archive")
            tokenizer[key] = str(folder / name)


def _reduced(config: dict[str, Any]) -> dict[str, Any]:
    """Without training and scoring, and with greedy decoding, which is all that is used; see `nemo_restore`."""
    kept = {key: value for key, value in config.items() if key not in UNUSED_SECTIONS}
    validation = kept.get("validation_ds")
    if isinstance(validation, dict):  # transcribe() of paths reads this flag, nothing else
        kept["validation_ds"] = {"use_start_end_token": bool(validation.get("use_start_end_token", False))}
    if "prompt_format" in kept:
        kept |= deepcopy(dict(MULTITASK_SECTIONS))
    elif "joint" in kept:
        kept["decoding"] = _greedy_transducer(kept.get("decoding") or {})
    elif "decoding" in kept:
        kept["decoding"] = dict(GREEDY_CTC)
    if isinstance(kept.get("aux_ctc"), dict):
        kept["aux_ctc"] = {**kept["aux_ctc"], "decoding": dict(GREEDY_CTC)}
    return kept


def _greedy_transducer(decoding: Mapping[str, Any]) -> dict[str, Any]:
    greedy = decoding.get("greedy") or {}
    return {key: decoding[key] for key in ("model_type", "durations") if key in decoding} | {
        "strategy": "greedy_batch",
        "greedy": {"max_symbols": greedy.get("max_symbols") or DEFAULT_MAX_SYMBOLS, "use_cuda_graph_decoder": False},
    }
