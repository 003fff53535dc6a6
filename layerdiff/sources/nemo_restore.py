"""From a `.nemo` file to a NeMo model in the state in which a reference has to be.

NeMo's own `restore_from` is not used: it leaves the choice whether to unpickle to an environment variable and
falls back to another class when the one of the configuration fails. Here the archive and its configuration are
checked first (`nemo_archive`), every class that the configuration names must be a module of a speech model, and
the weights are unpickled as tensors only.
"""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from layerdiff import quiet
from layerdiff.errors import CheckpointError, MissingExtraError
from layerdiff.sources.nemo_archive import CONFIG_NAME, TARGET_KEYS, WEIGHTS_NAME, read_config, unpacked
from layerdiff.sources.nemo_locate import locate

if TYPE_CHECKING:
    from layerdiff.progress import Progress

FACTORIES = ("nemo.collections.asr.modules.transformer.get_nemo_transformer",)
"""The functions that a configuration may name: this one makes a transformer of random weights and nothing else."""


@dataclass(frozen=True)
class ModelKind:
    """What is asked of a checkpoint."""

    title: str
    """In words."""
    base: str
    """Dotted name of the class that the model's has to be derived from."""
    detail: str
    action: str


TRANSDUCER = ModelKind(
    "a transducer",
    "nemo.collections.asr.models.EncDecRNNTModel",
    "expected a subclass of EncDecRNNTModel, such as EncDecRNNTBPEModel",
    "Give the checkpoint of a transducer (RNN-T or TDT).",
)
SPEECH_MODEL = ModelKind(
    "a speech model",
    "nemo.core.classes.ModelPT",
    "expected a model of nemo.collections.asr, such as EncDecCTCModelBPE or EncDecMultiTaskModel",
    "Give the checkpoint of a NeMo ASR model.",
)

_WEIGHT_DAMAGE = (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, ValueError, TypeError)
"""What torch.load raises for pickled code and for damaged files."""


def restore(name: str | Path, *, progress: Progress | None = None) -> Any:
    """The transducer that a name means, on the CPU and in the reference's state.

    Args:
        name: a bundled name, the path of a `.nemo` file, or a name on the Hugging Face hub.
        progress: told about the import of NeMo and the restoring; None for silence.

    Returns:
        A NeMo `EncDecRNNTModel`, or a subclass.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, unsafe, or no transducer.
        MissingExtraError: NeMo is not installed.
    """
    return restore_kind(name, TRANSDUCER, progress=progress)


def restore_kind(name: str | Path, kind: ModelKind, *, progress: Progress | None = None) -> Any:
    """The model that a name means, if it is of the kind that is asked for; otherwise as `restore`."""
    require_nemo()
    with quiet.third_party():
        path = locate(name)
        with unpacked(path) as folder:
            config = read_config(folder, checkpoint=path.name)
            with _task(progress, "importing NeMo"):
                importlib.import_module("nemo.collections.asr")
            with _task(progress, f"restoring {path.name}"):
                model = _build(config, folder, path, kind=kind)
                _load_weights(model, folder / WEIGHTS_NAME, path)
        return to_reference_state(model)


def require_nemo() -> None:
    """Raises MissingExtraError where NeMo is not installed; imports nothing."""
    if importlib.util.find_spec("nemo") is None:
        raise MissingExtraError("nemo", extra="nemo", purpose="a NeMo reference")


def _task(progress: Progress | None, title: str) -> AbstractContextManager[Any]:
    return nullcontext() if progress is None else progress.task(title, total=None)


# ------------------------------------------------------------------ building


def _build(config: Mapping[str, Any], folder: Path, path: Path, *, kind: ModelKind) -> Any:
    """The model with random weights; the tokenizer comes from the unpacked archive."""
    from omegaconf import OmegaConf

    _require_module_classes(config, path)
    model_class, base = _class_of(str(config.get("target"))), _class_of(kind.base)
    if model_class is None or base is None or not issubclass(model_class, base):
        raise CheckpointError(
            f"the checkpoint '{path.name}' holds a '{config.get('target')}', which is not {kind.title}.",
            where=f"{path}, {CONFIG_NAME}, target",
            detail=kind.detail,
            action=kind.action,
        )
    checked = OmegaConf.create(dict(config))
    OmegaConf.set_struct(checked, True)
    model_class._set_model_restore_state(is_being_restored=True, folder=str(folder))
    try:
        return model_class(cfg=checked, trainer=None)
    except Exception as error:  # a constructor that runs a stranger's configuration can raise anything
        raise CheckpointError(
            f"NeMo can't build the model of '{path.name}': {_first_line(error)}.",
            where=f"{path}, {CONFIG_NAME}",
            action="Check that the checkpoint was saved by a NeMo version that the installed one can read.",
        ) from error
    finally:
        model_class._set_model_restore_state(is_being_restored=False)


def _require_module_classes(config: Mapping[str, Any], path: Path) -> None:
    """Every class that NeMo will instantiate is a module, a tokenizer, or an adapter's strategy."""
    from nemo.collections.common.tokenizers import TokenizerSpec
    from nemo.core.classes.mixins.adapter_mixin_strategies import AbstractAdapterStrategy

    for name in (target for target in _targets(config) if target not in FACTORIES):
        found = _class_of(name)
        if found is None or not issubclass(found, torch.nn.Module | AbstractAdapterStrategy | TokenizerSpec):
            raise CheckpointError(
                f"the configuration of '{path.name}' would call '{name}', which is not a module of a speech model.",
                where=f"{path}, {CONFIG_NAME}",
                action="Don't use this file; get the checkpoint from its publisher.",
            )


def _targets(value: Any) -> Iterator[str]:
    """Everything below a value that hydra or NeMo would import."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key in TARGET_KEYS and isinstance(item, str):
                yield item
            yield from _targets(item)
    elif isinstance(value, list):
        for item in value:
            yield from _targets(item)


def _class_of(name: str) -> type[Any] | None:
    """The class of a dotted name, None if there is none; NeMo's decorators around classes are removed."""
    module_name, _, class_name = name.rpartition(".")
    try:
        found: Any = getattr(importlib.import_module(module_name), class_name, None)
    except (ImportError, ValueError):
        return None
    while hasattr(found, "__wrapped__"):
        found = found.__wrapped__
    return found if isinstance(found, type) else None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


# ------------------------------------------------------------------ weights


def _load_weights(model: torch.nn.Module, weights: Path, path: Path) -> None:
    """Fills the model; every parameter must be there and none too many."""
    state = _read_weights(weights, path)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights of '{path.name}' don't fit its configuration.",
            where=f"{path}, {WEIGHTS_NAME}",
            detail="\n".join(line.strip() for line in str(error).splitlines()[1:4]),
            action="Download the checkpoint again, or ask where it comes from.",
        ) from error


def _read_weights(weights: Path, path: Path) -> dict[str, torch.Tensor]:
    """The state dict, unpickled as tensors and plain containers only, whatever the environment says."""
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(weights))
    except _WEIGHT_DAMAGE as error:
        raise CheckpointError(
            f"the weights of '{path.name}' are damaged, or hold code instead of tensors.",
            where=f"{path}, {WEIGHTS_NAME}",
            detail=_first_line(error),
            action="Get the checkpoint again from its publisher; layerdiff executes nothing that comes with weights.",
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(
            f"the weights of '{path.name}' are not a mapping of names to tensors.",
            where=f"{path}, {WEIGHTS_NAME}",
            action="Save the model with NeMo's save_to().",
        )
    return state


# ------------------------------------------------------------------ state


def to_reference_state(model: Any) -> Any:
    """Puts a model, or any part of one, in the state in which nothing is random, padded or fused.

    eval(), float32 on the CPU, no gradients, dither 0, pad_to 0, no spec-augment and no other masks, fuse_loss_wer off,
    no CUDA graphs (their replay runs no hooks), and TF32 off for the whole process. `joint.log_softmax` is left as it
    was found: whether a conversion kept it is a question, not a setting.
    """
    model.to("cpu", torch.float32).eval().requires_grad_(False)
    featurizer = getattr(getattr(model, "preprocessor", None), "featurizer", None)
    for name, value in (("dither", 0.0), ("pad_to", 0)):
        if hasattr(featurizer, name):
            setattr(featurizer, name, value)
    if getattr(model, "spec_augmentation", None) is not None:
        model.spec_augmentation = None
    if getattr(model, "apply_masking", False):  # a self-supervised model masks its input outside of training too
        model.apply_masking = False
    joint = getattr(model, "joint", None)
    if joint is not None:
        joint.set_fuse_loss_wer(False)
    computer = cuda_graph_computer(model)
    if computer is not None:
        computer.allow_cuda_graphs = False
        computer.disable_cuda_graphs()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return model


def cuda_graph_computer(model: Any) -> Any:
    """NeMo's part of the batched greedy decoding that can use CUDA graphs; None if the model has none."""
    decoding = getattr(getattr(model, "decoding", None), "decoding", None)
    return getattr(decoding, "decoding_computer", None)
