"""Real NeMo models of every class, with random weights: each is built, saved and opened when it is asked for."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from layerdiff import quiet
from layerdiff.sources.nemo_restore import SPEECH_MODEL, restore_kind

MINI = Path(str(resources.files("layerdiff") / "assets" / "parakeet-tdt-mini.nemo"))
RATE = 16_000
LETTERS = list(" abcdefghij'")
ASR = "nemo.collections.asr."
CONFORMER: dict[str, Any] = {
    "_target_": f"{ASR}modules.ConformerEncoder", "feat_in": 16, "feat_out": -1, "n_layers": 1, "d_model": 16,
    "subsampling": "dw_striding", "subsampling_factor": 4, "subsampling_conv_channels": 8, "ff_expansion_factor": 2,
    "n_heads": 2, "conv_kernel_size": 5, "dropout": 0.1, "dropout_att": 0.1,
}  # fmt: skip
BASE: dict[str, Any] = {
    "sample_rate": RATE,
    "log_prediction": False,
    "preprocessor": {
        "_target_": f"{ASR}modules.AudioToMelSpectrogramPreprocessor", "sample_rate": RATE, "normalize": "per_feature",
        "window_size": 0.025, "window_stride": 0.01, "features": 16, "n_fft": 512, "dither": 1e-5, "pad_to": 16,
    },
    "spec_augment": {"_target_": f"{ASR}modules.SpectrogramAugmentation", "freq_masks": 1, "freq_width": 4},
    "encoder": CONFORMER,
}  # fmt: skip
CTC_HEAD: dict[str, Any] = {
    "_target_": f"{ASR}modules.ConvASRDecoder", "feat_in": 16, "num_classes": -1, "vocabulary": [],
}  # fmt: skip
LETTER_HEAD = {**CTC_HEAD, "num_classes": len(LETTERS), "vocabulary": LETTERS}
TRANSDUCER: dict[str, Any] = {
    "labels": LETTERS,
    "model_defaults": {"enc_hidden": 16, "pred_hidden": 12, "joint_hidden": 10},
    "decoder": {
        "_target_": f"{ASR}modules.RNNTDecoder", "blank_as_pad": True,
        "prednet": {"pred_hidden": 12, "pred_rnn_layers": 1, "dropout": 0.1},
    },
    "joint": {
        "_target_": f"{ASR}modules.RNNTJoint", "fuse_loss_wer": True, "fused_batch_size": 2,
        "jointnet": {"joint_hidden": 10, "activation": "relu", "dropout": 0.1, "encoder_hidden": 16, "pred_hidden": 12},
    },
    "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 2}},
    "loss": {"loss_name": "default"},
}  # fmt: skip
ATTENTION = {"hidden_size": 16, "inner_size": 24, "num_layers": 1, "num_attention_heads": 2}


def jasper() -> dict[str, Any]:
    """An encoder of convolutions, as QuartzNet's."""
    block = {"filters": 16, "repeat": 1, "kernel": [5], "dilation": [1], "dropout": 0.1, "separable": True}
    blocks = [{**block, "stride": [2], "residual": False, "se": True}, {**block, "stride": [1], "residual": True}]
    return {"_target_": f"{ASR}modules.ConvASREncoder", "feat_in": 16, "activation": "relu", "jasper": blocks}


def canary(tokenizer: Path) -> dict[str, Any]:
    """A multitask model with a tokenizer of two parts and a prompt."""
    languages = {"spl_tokens": str(special_tokenizer(tokenizer.parent)), "en": str(tokenizer)}
    return {
        **BASE,
        "restore_timestamps_model": False,
        "prompt_format": "canary",
        "prompt_defaults": [{"role": "user", "slots": {"source_lang": "en", "target_lang": "en", "task": "asr"}}],
        "model_defaults": {"asr_enc_hidden": 16, "lm_enc_hidden": 16, "lm_dec_hidden": 16},
        "tokenizer": {
            "type": "agg",
            "dir": None,
            "langs": {name: {"type": "bpe", "dir": folder} for name, folder in languages.items()},
            "custom_tokenizer": {
                "_target_": "nemo.collections.common.tokenizers.canary_tokenizer.CanaryTokenizer",
                "tokenizers": None,
            },
        },
        "transf_encoder": {"_target_": f"{ASR}modules.transformer.TransformerEncoder", **ATTENTION, "pre_ln": True},
        "transf_decoder": {
            "_target_": f"{ASR}modules.transformer.get_nemo_transformer",
            "encoder": False,
            "config_dict": {**ATTENTION, "max_sequence_length": 24, "num_token_types": 0, "vocab_size": None},
        },
        "head": {
            "_target_": f"{ASR}parts.submodules.token_classifier.TokenClassifier",
            "num_layers": 1, "activation": "relu", "log_softmax": True, "hidden_size": 16, "num_classes": None,
            "dropout": 0.1, "use_transformer_init": True,
        },
        "decoding": {"strategy": "beam", "beam": {"beam_size": 3, "len_pen": 0.0, "max_generation_delta": 50}},
        "loss": {
            "_target_": "nemo.collections.common.losses.smoothed_cross_entropy.SmoothedCrossEntropyLoss",
            "pad_id": None,
        },
    }  # fmt: skip


def special_tokenizer(folder: Path) -> Path:
    from nemo.collections.common.tokenizers.canary_tokenizer import CanaryTokenizer

    CanaryTokenizer.build_special_tokenizer(["en", "transcribe", "translate"], folder / "special")
    return folder / "special"


def masked_prediction() -> dict[str, Any]:
    quantizer = {"feat_in": 16, "code_dim": 4, "num_books": 1, "num_classes": 20, "combine_time_steps": 4}
    return {
        **BASE, "num_classes": 20, "num_books": 1, "squeeze_single": False, "mask_position": "pre_conv",
        "masking": {"_target_": f"{ASR}modules.RandomBlockMasking", "feat_in": 16, "block_size": 8, "mask_prob": 0.5},
        "quantizer": {"_target_": f"{ASR}modules.RandomProjectionVectorQuantizer", **quantizer},
        "decoder": {"_target_": f"{ASR}modules.MultiSoftmaxDecoder", "feat_in": 16, "num_classes": 20},
        "loss": {"_target_": f"{ASR}losses.MultiMLMLoss", "combine_time_steps": 4},
    }  # fmt: skip


def contrastive() -> dict[str, Any]:
    decoder = {"feat_in": 16, "feat_hidden": 8, "feat_out": 16}
    loss = {"in_dim": 16, "proj_dim": 16, "combine_time_steps": 4, "codebook_size": 10, "num_negatives": 5}
    return {
        **BASE,
        "decoder": {"_target_": f"{ASR}modules.ConvASRDecoderReconstruction", **decoder},
        "loss": {"_target_": f"{ASR}losses.ContrastiveLoss", **loss},
    }


def with_language_prompt(tokenizer: Path) -> dict[str, Any]:
    prompt = {"num_prompts": 4, "initialize_prompt_feature": True, "prompt_dictionary": {"en-US": 2, "de": 3}}
    return {**BASE, **TRANSDUCER, "model_defaults": {**TRANSDUCER["model_defaults"], **prompt}} | bpe(tokenizer)


def stateless() -> dict[str, Any]:
    decoder = {
        "_target_": f"{ASR}modules.StatelessTransducerDecoder",
        "context_size": 2,
        "prednet": {"pred_hidden": 12},
    }
    return {**BASE, **TRANSDUCER, "decoder": decoder}


def attention_bpe(tokenizer: Path) -> dict[str, Any]:
    """An attention model without a prompt."""
    layers = {**ATTENTION, "ffn_dropout": 0.1, "attn_score_dropout": 0.1, "attn_layer_dropout": 0.1, "pre_ln": True}
    head = {"num_layers": 1, "activation": "relu", "log_softmax": True, "dropout": 0.1, "use_transformer_init": True}
    return {
        **BASE, "transf_encoder": layers, "head": head, "label_smoothing": 0.0,
        "transf_decoder": {**layers, "library": "nemo", "max_sequence_length": 24, "num_token_types": 0},
        "beam_search": {"beam_size": 1, "len_pen": 0.0, "max_generation_delta": 20},
    } | bpe(tokenizer)  # fmt: skip


def bpe(tokenizer: Path) -> dict[str, Any]:
    return {"tokenizer": {"type": "bpe", "dir": str(tokenizer)}}


AUX = {"ctc_loss_weight": 0.3, "decoder": CTC_HEAD}
MODELS: dict[str, tuple[str, Callable[[Path], dict[str, Any]]]] = {
    "ctc_letters": ("EncDecCTCModel", lambda _: {**BASE, "decoder": LETTER_HEAD, "labels": LETTERS}),
    "ctc_bpe": ("EncDecCTCModelBPE", lambda folder: {**BASE, "decoder": CTC_HEAD} | bpe(folder)),
    "ctc_convolutions": (
        "EncDecCTCModel",
        lambda _: {**BASE, "encoder": jasper(), "decoder": LETTER_HEAD, "labels": LETTERS},
    ),
    "rnnt_letters": ("EncDecRNNTModel", lambda _: {**BASE, **TRANSDUCER}),
    "rnnt_stateless": ("EncDecRNNTModel", lambda _: stateless()),
    "rnnt_prompt": ("EncDecRNNTBPEModelWithPrompt", with_language_prompt),
    "hybrid_letters": (
        "EncDecHybridRNNTCTCModel",
        lambda _: {**BASE, **TRANSDUCER, "aux_ctc": {**AUX, "decoder": LETTER_HEAD}},
    ),
    "hybrid_bpe": ("EncDecHybridRNNTCTCBPEModel", lambda folder: {**BASE, **TRANSDUCER, "aux_ctc": AUX} | bpe(folder)),
    "multitask": ("EncDecMultiTaskModel", canary),
    "attention_bpe": ("EncDecTransfModelBPE", attention_bpe),
    "masked_prediction": ("EncDecDenoiseMaskedTokenPredModel", lambda _: masked_prediction()),
    "contrastive": ("SpeechEncDecSelfSupervisedModel", lambda _: contrastive()),
}
"""Name → NeMo's class, and its configuration."""


class Zoo:
    """The models, each built, saved and restored when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._kept = folder, dict[tuple[str, str], Any]()

    def _once(self, kind: str, name: str, make: Callable[[], Any]) -> Any:
        if (kind, name) not in self._kept:
            self._kept[kind, name] = make()
        return self._kept[kind, name]

    def nemos(self, name: str) -> Any:
        """NeMo's own model, as a user has it for inference: what is random while training is still configured."""
        return self._once("nemos", name, lambda: self._built(name))

    def path(self, name: str) -> Path:
        """The checkpoint that NeMo saved of it."""
        return Path(self._once("path", name, lambda: self._saved(name)))

    def ours(self, name: str) -> Any:
        """The model of the checkpoint in the reference's state."""
        return self._once("ours", name, lambda: restore_kind(self.path(name), SPEECH_MODEL))

    def _built(self, name: str) -> Any:
        from nemo.collections.asr import models
        from omegaconf import OmegaConf

        class_name, config = MODELS[name]
        torch.manual_seed(0)
        with quiet.third_party():
            model = getattr(models, class_name)(cfg=OmegaConf.create(config(self._tokenizer())), trainer=None)
        model.preprocessor.featurizer.pad_to = 0
        return model.eval().float()  # NeMo makes the codebooks of masked prediction in float64

    def _saved(self, name: str) -> Path:
        path = self.folder / f"{name}.nemo"
        with quiet.third_party():
            self.nemos(name).save_to(str(path))
        return path

    def _tokenizer(self) -> Path:
        """The bundled model's tokenizer as a folder."""
        folder = self.folder / "tokenizer"
        folder.mkdir(exist_ok=True)
        with tarfile.open(MINI) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None and ("tokenizer." in member.name or "vocab." in member.name):
                    (folder / member.name.rpartition("_")[2]).write_bytes(file.read())
        return folder
