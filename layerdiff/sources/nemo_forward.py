"""How does a clip pass through a NeMo model of any class, so that each component is called with its real inputs?

NeMo's `forward` does it for CTC models, and as far as the encoder for all. What it leaves out is added here:

- transducers: the prediction network and the joint, along the reference's greedy path, by a `Walk` that the caller
  gives, since where the joint looks is not a source's business;
- hybrids: the CTC head beside them, as NeMo's own transcription calls it;
- models with an attention decoder: the tokens that it reads, which are the prompt of a transcription and what the
  model itself, asked greedily, says next;
- masked prediction: no mask and no quantizer, which only makes the targets of the training.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch

from layerdiff.errors import FeedError
from layerdiff.sources.nemo import NemoSource, require_supported

if TYPE_CHECKING:
    from layerdiff.records import Clip, Component

Walk = Callable[[NemoSource, "Clip", "Component"], Iterable[Any]]
"""(transducer, clip, last component) → the calls of the reference's path, made one by one while this is iterated, as by
`layerdiff.capture.walk_reference`."""

Pause = Callable[[], AbstractContextManager[None]]
"""What runs in this context is no part of the pass."""

ON_THE_PATH: tuple[Component, ...] = ("decoder", "joint")
"""The components of a transducer that `forward` doesn't reach."""

ATTENTION = ("transf_decoder", "log_softmax")
"""The components of a model with an attention decoder that run only where there are tokens."""

DEFAULT_SLOTS = {
    "source_lang": "en",
    "target_lang": "en",
    "task": "asr",
    "pnc": "yes",
    "itn": "no",
    "timestamp": "no",
    "diarize": "no",
    "emotion": "<|emo:undefined|>",
    "decodercontext": "",
}
"""What a prompt is filled with where the checkpoint has no defaults: English transcription with punctuation."""


def run_clip(model: Any, clip: Clip, component: str, *, walk: Walk | None, pause: Pause) -> None:
    """Runs a model on a clip so that one of its components is called as in a transcription.

    Args:
        model: in the reference's state.
        clip: at the model's sample rate.
        component: the first part of a module's path, such as `encoder`; what lies behind it may not run.
        walk: needed for a transducer's prediction network and joint.
        pause: entered around whatever is not part of the one pass.

    Raises:
        CheckpointError: it is a transducer that can't be walked through.
        FeedError: no prompt can be made.
        ValueError: the walk is needed and not given.
    """
    if hasattr(model, "joint") and component in ON_THE_PATH:
        _walk(model, clip, until="decoder" if component == "decoder" else "joint", walk=walk)
        return
    signal = torch.from_numpy(clip.samples[None].copy())
    length = torch.tensor([len(clip.samples)])
    with torch.no_grad():
        if hasattr(model, "quantizer"):
            _run_masked_prediction(model, signal, length)
        elif component in ATTENTION:
            _run_attention(model, signal, length, pause)
        elif component == "ctc_decoder":
            model.ctc_decoder(encoder_output=run_forward(model, signal, length)[0])
        else:
            run_forward(model, signal, length)


def _walk(model: Any, clip: Clip, *, until: Component, walk: Walk | None) -> None:
    if walk is None:
        raise ValueError("a transducer's decoder and joint are fed along the greedy path, and no walk was given")
    require_supported(model, type(model).__name__)
    for _ in walk(NemoSource.from_model(model), clip, until):
        pass


def run_forward(model: Any, signal: torch.Tensor, length: torch.Tensor) -> Any:
    """The model's own `forward` on float32[1, S] and int64[1]; one with a language prompt gets its first language."""
    names = list(inspect.signature(model.forward).parameters)
    arguments = {names[0]: signal, names[1]: length}
    if getattr(model, "concat", False):
        languages = dict(model.cfg.model_defaults.get("prompt_dictionary") or {})
        arguments["prompt_indices"] = torch.tensor([min(languages.values(), default=0)])
    return model(**arguments)


def _run_masked_prediction(model: Any, signal: torch.Tensor, length: torch.Tensor) -> None:
    mel, mel_length = model.preprocessor(input_signal=signal, length=length)
    encoded, _ = model.encoder(audio_signal=mel, length=mel_length)
    model.decoder(encoder_output=encoded)


# ------------------------------------------------------------------ attention decoders


def _run_attention(model: Any, signal: torch.Tensor, length: torch.Tensor, pause: Pause) -> None:
    """As `forward` with a transcript, with the encoder run only once."""
    _, _, states, mask = run_forward(model, signal, length)
    with pause():
        tokens = greedy_tokens(model, states, mask, prompt=prompt_tokens(model))
    model.log_softmax(hidden_states=_attend(model, tokens, states, mask))


def _attend(model: Any, tokens: torch.Tensor, states: torch.Tensor, mask: torch.Tensor) -> Any:
    return model.transf_decoder(
        input_ids=tokens, decoder_mask=torch.ones_like(tokens), encoder_embeddings=states, encoder_mask=mask
    )


def prompt_tokens(model: Any) -> torch.Tensor:
    """int64[1, U]; what the decoder reads before the first token of a transcript.

    Raises:
        FeedError: the prompt asks for something that isn't known, or that the tokenizer lacks.
    """
    if not hasattr(model, "prompt"):
        return torch.tensor([[_start_of_text(model)]])
    turns = model.prompt.get_default_dialog_slots()
    for turn in turns:
        known = {slot: value for slot, value in turn["slots"].items() if value is not None}
        turn["slots"] = {slot: DEFAULT_SLOTS[slot] for slot in turn["slots"] if slot in DEFAULT_SLOTS} | known
    try:
        return model.prompt.encode_dialog(turns=turns)["context_ids"][None].long()  # type: ignore[no-any-return]
    except (AssertionError, KeyError, ValueError) as error:  # what NeMo raises for a slot or a token that isn't there
        raise FeedError(
            f"the prompt '{model.prompt_format}' can't be made for a transcription.",
            where=f"{type(model).__name__}, prompt_format",
            detail=f"{type(error).__name__}: {error}",
            action="Save the checkpoint with prompt_defaults for all of its slots.",
        ) from error


def _start_of_text(model: Any) -> int:
    start = int(model.tokenizer.bos_id)
    if start < 0:  # sentencepiece's word for a token that it doesn't have
        raise FeedError(
            "the model's tokenizer has no token for the start of a text, with which its decoder begins.",
            where=type(model).__name__,
            action="Give a checkpoint whose tokenizer was made with such a token.",
        )
    return start


def greedy_tokens(model: Any, states: torch.Tensor, mask: torch.Tensor, *, prompt: torch.Tensor) -> torch.Tensor:
    """The prompt and what the model says next, without the end of the text: int64[1, U].

    As many tokens at most as the encoder has frames, and never more than the decoder has positions. NeMo's own
    greedy decoding isn't used: it leaves the decoder in training mode.

    Args:
        states: float32[1, T, D]; the encoder's.
        mask: float32[1, T].
        prompt: int64[1, U0].
    """
    tokens = prompt
    limit = min(int(model.transf_decoder.max_sequence_length), prompt.shape[1] + states.shape[1])
    while tokens.shape[1] < limit:
        log_probs = model.log_softmax(hidden_states=_attend(model, tokens, states, mask)[:, -1:])
        best = log_probs.argmax(dim=-1)  # [1, 1]
        if int(best) == int(model.tokenizer.eos_id):
            break
        tokens = torch.cat([tokens, best], dim=1)
    return tokens
