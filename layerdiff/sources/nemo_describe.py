"""What a NeMo model is and the state it is in, as plain JSON values for a report's header.

Everything is read from the modules themselves, not from what they were configured to be.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

import torch

from layerdiff.sources.nemo_archive import DEFAULT_MAX_SYMBOLS
from layerdiff.sources.nemo_restore import cuda_graph_computer


def describe(model: Any) -> dict[str, Any]:
    """What a model, or a part of one, is and the state it is in, as found on the modules themselves."""
    return {
        "model": type(model).__name__,
        "nemo": metadata.version("nemo_toolkit"),
        "torch": torch.__version__.partition("+")[0],
        "threads": torch.get_num_threads(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})),
        "eval": not any(module.training for module in model.modules()),
        "tf32": bool(torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32),
        **_describe_audio(model),
        **_describe_joint(model),
        **_describe_ctc(model),
        **_describe_attention(model),
    }


def _describe_audio(model: Any) -> dict[str, Any]:
    featurizer = getattr(getattr(model, "preprocessor", None), "featurizer", None)
    encoder = getattr(model, "encoder", None)
    if featurizer is None or encoder is None:
        return {}
    rate = int(model.cfg.preprocessor.sample_rate)
    frame = getattr(featurizer, "hop_length", 0) * getattr(encoder, "subsampling_factor", 0)
    return {name: getattr(featurizer, name) for name in ("dither", "pad_to") if hasattr(featurizer, name)} | {
        "spec_augment": getattr(model, "spec_augmentation", None) is not None,
        "sample_rate_hz": rate,
        "frame_s": round(frame / rate, 9),
    }


def _describe_joint(model: Any) -> dict[str, Any]:
    joint = getattr(model, "joint", None)
    if joint is None:
        return {}
    decoding = getattr(getattr(model, "cfg", None), "decoding", None) or {}
    greedy = decoding.get("greedy") or {}
    durations = [int(duration) for duration in decoding.get("durations") or ()]
    vocabulary = int(joint.num_classes_with_blank - 1 - joint.num_extra_outputs)
    return {
        "log_softmax": joint.log_softmax,
        "joint_output": _joint_output(joint.log_softmax),
        "fuse_loss_wer": bool(joint.fuse_loss_wer),
        "use_cuda_graph_decoder": bool(getattr(cuda_graph_computer(model), "allow_cuda_graphs", False)),
        "vocabulary_size": vocabulary,
        "blank": vocabulary,
        "durations": durations,
        "max_symbols": int(greedy.get("max_symbols") or DEFAULT_MAX_SYMBOLS),
    }


def _describe_ctc(model: Any) -> dict[str, Any]:
    """The CTC head; beside a joint it is the auxiliary one of a hybrid, which has the joint's vocabulary and blank."""
    hybrid = hasattr(model, "ctc_decoder")
    head = getattr(model, "ctc_decoder" if hybrid else "decoder", None)
    classes = getattr(head, "num_classes_with_blank", None)
    if classes is None:
        return {}
    sizes = {} if hybrid else {"vocabulary_size": int(classes) - 1, "blank": int(classes) - 1}
    return sizes | {"ctc_temperature": float(getattr(head, "temperature", 1.0))}


def _describe_attention(model: Any) -> dict[str, Any]:
    """The decoder with attention, whose vocabulary is padded to a multiple of eight."""
    if not hasattr(model, "transf_decoder"):
        return {}
    tokenizer = model.tokenizer
    prompt = {"prompt_format": str(model.prompt_format)} if hasattr(model, "prompt_format") else {}
    return {
        "vocabulary_size": int(tokenizer.vocab_size),
        "padded_vocabulary_size": int(model.transf_decoder.vocab_size),
        "bos": int(tokenizer.bos_id),
        "eos": int(tokenizer.eos_id),
        **prompt,
    }


def _joint_output(log_softmax: bool | None) -> str:
    """What the joint's own output is, in words."""
    if log_softmax is None:
        return "normalised: log_softmax=None means log-softmax over all outputs on a CPU"
    return "normalised" if log_softmax else "raw"
