"""The registry of conversions: component → recipe → what is traced, and what goes in and comes out.

A recipe is data. Sizes in capital letters are read from the modules (`SIZES`), a `Range` is a flexible
dimension of the package; the same `Range` in two inputs is one symbol, so the sizes must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from layerdiff.errors import ConversionError, known_names


@dataclass(frozen=True)
class Range:
    """A flexible dimension of a package."""

    name: str
    lower: int
    upper: int
    example: int
    """The size at which the module is traced; never 1, which would be taken for a broadcast."""


Dim = int | str | Range
"""A fixed size, the name of a size of the model, or a flexible dimension."""


Dtype = Literal["float32", "float16", "int32"]
"""What an input or output of a package may be of."""


@dataclass(frozen=True)
class Port:
    """One input of a package."""

    name: str
    dtype: Dtype
    shape: tuple[Dim, ...]
    example: int | Range = 0
    """int32 only: the value with which the module is traced, or the dimension whose size it is."""


@dataclass(frozen=True)
class Cut:
    """An output of a joint that was chosen by name: one of its tensors, or a part of it."""

    tensor: str
    """As the reference names it: `joint.enc`, `joint.joint_net.0:input`."""
    part: Literal["whole", "vocabulary", "durations"] = "whole"
    """Of the logits; the vocabulary has the blank."""
    log_softmax: bool = False
    """Whether the part is normalised, by itself."""


@dataclass(frozen=True)
class Recipe:
    """How one component becomes a package."""

    wrapper: str
    """Name of the class in `layerdiff.convert.wrappers`."""
    inputs: tuple[Port, ...]
    outputs: Mapping[str, Dtype]
    """Contract name → dtype, in the order in which the wrapper returns them."""
    taps_before: tuple[str, ...] = ()
    """With `debug`: float32 outputs that the wrapper returns before `outputs`."""
    taps_after: tuple[str, ...] = ()
    """With `debug`: float32 outputs that follow; `layer_*` stands for one per layer of the encoder."""
    cuts: Mapping[str, Cut] = field(default_factory=dict)
    """What `outputs` are, for the wrapper that returns any tensor of the joint."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Attributes of the component that are set while it is traced."""
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The default stage map, in the form of the configuration's `stages`; `*` is the index of a layer, `LAST`
    that of the joint's output layer, `EXTRA` the number of durations."""
    tap_stages: tuple[str, ...] = ()
    """Stages that there are only with `debug`; a slice is taken from its parent without it."""


SAMPLES = Range("samples", 1, 480_000, 16_000)
"""Up to 30 s at 16 kHz."""
FRAMES = Range("frames", 10, 3_000, 200)
"""Up to 30 s of mel frames of 10 ms."""
BATCH = Range("batch", 1, 65_536, 2)
TIME = Range("time", 1, 4_096, 3)
STEPS = Range("steps", 1, 4_096, 4)

SIZES: dict[str, Callable[[Any], int]] = {
    "F": lambda source: int(source.encoder._feat_in),
    "D": lambda source: int(source.joint.enc.in_features),
    "P": lambda source: int(source.joint.pred.in_features),
    "L": lambda source: int(_lstm(source).num_layers),
    "H": lambda source: int(_lstm(source).hidden_size),
}
"""Mel bins, encoder width, prediction width, LSTM layers and LSTM width of a source's modules."""

_JOINT_INPUTS = (Port("encoder", "float32", (BATCH, "D", TIME)), Port("decoder", "float32", (BATCH, "P", STEPS)))
_JOINT_TAPS = ("enc_proj", "dec_proj", "pre_activation", "relu_hidden")
_JOINT_STAGES: dict[str, dict[str, Any]] = {
    "encoder_projection": {"reference": "joint.enc", "candidate": "enc_proj"},
    "decoder_projection": {"reference": "joint.pred", "candidate": "dec_proj"},
    "pre_activation": {"reference": "joint.joint_net.0:input", "candidate": "pre_activation"},
    "joint_hidden": {"reference": "joint.joint_net.0", "candidate": "relu_hidden"},
    "logits": {"reference": "joint.joint_net.LAST", "candidate": "logits"},
    "vocab_logits": {"of": "logits", "slice": "..., :-EXTRA", "candidate": "vocab_logits"},
    "duration_logits": {
        "of": "logits",
        "slice": "..., -EXTRA:",
        "candidate": "duration_logits",
        "expect": {"some_positive": True},
    },
}
_TDT_STATE = {"_fuse_loss_wer": False}
RAW_JOINT = {**_TDT_STATE, "log_softmax": False}
"""The attributes of a joint that gives what its output layer gives."""

RECIPES: dict[str, dict[str, Recipe]] = {
    "preprocessor": {
        "plain": Recipe(
            wrapper="Preprocessor",
            inputs=(
                Port("audio_signal", "float32", (1, SAMPLES)),
                Port("audio_length", "int32", (1,), example=SAMPLES),
            ),
            outputs={"mel": "float32", "mel_length": "int32"},
            stages={"mel": {"reference": "preprocessor", "candidate": "mel"}},
        ),
    },
    "encoder": {
        "plain": Recipe(
            wrapper="Encoder",
            inputs=(Port("mel", "float32", (1, "F", FRAMES)), Port("mel_length", "int32", (1,), example=FRAMES)),
            outputs={"encoder": "float32", "encoder_length": "int32"},
            taps_after=("pre_encode", "layer_*"),
            stages={
                "pre_encode": {"reference": "encoder.pre_encode", "candidate": "pre_encode"},
                "layer_*": {"reference": "encoder.layers.*", "candidate": "layer_*"},
                "encoder": {"reference": "encoder", "candidate": "encoder"},
            },
            tap_stages=("pre_encode", "layer_*"),
        ),
    },
    "decoder": {
        "plain": Recipe(
            wrapper="Decoder",
            inputs=(
                Port("targets", "int32", (1, 1)),
                Port("target_length", "int32", (1,), example=1),
                Port("h_in", "float32", ("L", 1, "H")),
                Port("c_in", "float32", ("L", 1, "H")),
            ),
            outputs={"decoder": "float32", "h_out": "float32", "c_out": "float32"},
            attributes={"_rnnt_export": True},
            stages={
                "decoder": {"reference": "decoder", "candidate": "decoder"},
                "h_out": {"reference": "decoder.prediction.dec_rnn:1.0", "candidate": "h_out"},
                "c_out": {"reference": "decoder.prediction.dec_rnn:1.1", "candidate": "c_out"},
            },
        ),
    },
    "joint": {
        "raw_logits": Recipe(
            wrapper="Joint",
            inputs=_JOINT_INPUTS,
            outputs={"logits": "float32"},
            taps_before=_JOINT_TAPS,
            taps_after=("vocab_logits", "duration_logits"),
            attributes=RAW_JOINT,
            stages=_JOINT_STAGES,
            tap_stages=("encoder_projection", "decoder_projection", "pre_activation", "joint_hidden"),
        ),
        # What a joint does when it is traced on a CPU without a thought: with log_softmax None, NeMo's default,
        # joint_after_projection normalises over vocabulary, blank and durations together.
        "cpu_traced": Recipe(
            wrapper="Joint",
            inputs=_JOINT_INPUTS,
            outputs={"logits": "float32"},
            taps_before=_JOINT_TAPS,
            taps_after=("vocab_logits", "duration_logits"),
            attributes={**_TDT_STATE, "log_softmax": None},
            stages=_JOINT_STAGES,
            tap_stages=("encoder_projection", "decoder_projection", "pre_activation", "joint_hidden"),
        ),
        "decision": Recipe(
            wrapper="Decision",
            inputs=(Port("encoder", "float32", (1, "D", 1)), Port("decoder", "float32", (1, "P", 1))),
            outputs={"token_id": "int32", "token_prob": "float32", "duration": "int32"},
            attributes=RAW_JOINT,
        ),
    },
}
"""Component → recipe name → recipe."""

JOINT_RECIPES = tuple(RECIPES["joint"])
"""What a configuration may ask for; components that have one way only ignore it."""


def find(component: str, recipe: str) -> tuple[str, Recipe]:
    """The recipe of a component and its name; a component with one recipe has it under every known name.

    Raises:
        ConversionError: the component or the recipe is unknown.
    """
    if component not in RECIPES:
        detail = known_names("known components", component, RECIPES)
        raise ConversionError(f"there is no recipe for the component '{component}'.", detail=detail)
    known = RECIPES[component]
    if recipe in known:
        return recipe, known[recipe]
    if len(known) == 1 and recipe in JOINT_RECIPES:
        return next(iter(known.items()))
    detail = known_names(f"known recipes of {component}", recipe, known)
    raise ConversionError(f"the {component} has no recipe '{recipe}'.", detail=detail)


def outputs(recipe: Recipe, source: Any, *, debug: bool) -> dict[str, str]:
    """Contract name → dtype of every output, in the order in which the wrapper returns them."""
    if not debug:
        return dict(recipe.outputs)
    before = dict.fromkeys(_expanded(recipe.taps_before, source), "float32")
    has_slices = recipe.wrapper != "Joint" or int(source.joint.num_extra_outputs) > 0
    after = dict.fromkeys(_expanded(recipe.taps_after, source), "float32") if has_slices else {}
    return {**before, **recipe.outputs, **after}


def default_stages(
    component: str, recipe: str = "raw_logits", *, debug: bool = True, source: Any
) -> dict[str, dict[str, Any]]:
    """The stages of a package that was built here, in the form of the configuration's `stages`.

    Args:
        component: preprocessor, encoder, decoder or joint.
        recipe: a recipe of the component.
        debug: whether the package has its taps; without them only the outputs can be named.
        source: what was converted; its modules tell the number of layers and of duration outputs.

    Raises:
        ConversionError: the component or the recipe is unknown.
    """
    _, found = find(component, recipe)
    stages = {name: dict(stage) for name, stage in found.stages.items() if debug or name not in found.tap_stages}
    for stage in stages.values():
        if "of" in stage and not debug:
            del stage["candidate"]  # the slice of the package's logits is taken instead
    if component == "encoder":
        return _per_layer(stages, source)
    return _with_joint_sizes(stages, source.joint) if component == "joint" else stages


def _per_layer(stages: dict[str, dict[str, Any]], source: Any) -> dict[str, dict[str, Any]]:
    """The stages, with one per layer in place of `*`."""
    expanded: dict[str, dict[str, Any]] = {}
    for name, stage in stages.items():
        for index, copy in enumerate(_copies(name, source)):
            expanded[copy] = {key: value.replace("*", str(index)) for key, value in stage.items()}
    return expanded


def _with_joint_sizes(stages: dict[str, dict[str, Any]], joint: Any) -> dict[str, dict[str, Any]]:
    """The stages with the index of the output layer and the number of durations; a plain RNN-T has none."""
    extra, last = int(joint.num_extra_outputs), len(joint.joint_net) - 1
    if not extra:
        stages = {name: stage for name, stage in stages.items() if "EXTRA" not in stage.get("slice", "")}

    def filled(value: Any) -> Any:
        return value.replace("LAST", str(last)).replace("EXTRA", str(extra)) if isinstance(value, str) else value

    return {name: {key: filled(value) for key, value in stage.items()} for name, stage in stages.items()}


def _expanded(names: tuple[str, ...], source: Any) -> list[str]:
    return [copy for name in names for copy in _copies(name, source)]


def _copies(name: str, source: Any) -> list[str]:
    """The name, or one for each layer of the encoder in place of `*`."""
    if "*" not in name:
        return [name]
    return [name.replace("*", str(index)) for index in range(len(source.encoder.layers))]


def _lstm(source: Any) -> Any:
    return source.decoder.prediction["dec_rnn"].lstm
