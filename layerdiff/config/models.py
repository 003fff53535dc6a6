"""The keys of a configuration, each with its meaning, its default and the rules it has to keep.

Keys that are unknown, of a wrong type or contradict each other are refused while a model is built. A key
without a value counts as absent. Nothing here opens a file: paths are checked where they are used.
"""

from __future__ import annotations

import warnings
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from layerdiff.config.corpora import CheckConfig, DecodeConfig, ExecutionConfig, SweepConfig, Target, Weights
from layerdiff.config.section import Number, Section, one_of, refuse
from layerdiff.config.slices import Index, parse_slice
from layerdiff.errors import known_names
from layerdiff.records import COMPONENTS, METRICS

SOURCES = ("nemo", "torch", "onnx", "trace", "coreml")
"""The keys that say what a model is read from."""

PathOrParts = Annotated[str | dict[str, str] | None, BeforeValidator(one_of(str, dict))]


class ReferenceConfig(Section):
    """The model that counts as right: exactly one of nemo, torch, onnx, trace and coreml."""

    nemo: Annotated[str | None, Field(min_length=1)] = None
    """A bundled name (`parakeet-tdt-mini`), a `.nemo` file, or a name on the Hugging Face hub."""
    torch: PathOrParts = None
    """`package.module:factory`, a TorchScript file, an exported program (`.pt2`); or component → such a text."""
    onnx: PathOrParts = None
    """An ONNX file, or component → file."""
    trace: Annotated[str | None, Field(min_length=1)] = None
    """A recorded trace."""
    coreml: PathOrParts = None
    """A package, or component → package: then two packages are compared."""
    component: Annotated[str, Field(min_length=1)] = "joint"
    """Of a NeMo model what is compared: a component, any module's path, or `whole`, which is all components of a
    transducer in sequence."""

    @model_validator(mode="after")
    def _one_source(self) -> ReferenceConfig:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            what = "names no model" if not given else "names more than one model: " + ", ".join(given)
            raise refuse(f"The reference {what}.", detail=f"expected exactly one of {', '.join(SOURCES)}")
        if self.component != "joint" and self.nemo is None:
            what = f"The reference is no NeMo model, so it has no component '{self.component}'."
            raise refuse(what, key=("component",), action="Remove the key.")
        return self

    @property
    def kind(self) -> str:
        """Which of `SOURCES` it is."""
        return next(name for name in SOURCES if getattr(self, name) is not None)


class ConvertConfig(Section):
    """A package that is built from the reference."""

    recipe: Literal["raw_logits", "cpu_traced", "decision"] = "raw_logits"
    """Of the joint: `raw_logits` converts it as it should be, `cpu_traced` as it stands on a CPU, `decision` fused
    with the choice of token and duration. Other components have one recipe, whatever stands here."""
    precision: Literal["float32", "float16"] = "float16"
    """The compute precision that coremltools is asked for."""
    weights: Weights = "full"
    """How the weights are compressed after the conversion."""
    float32_ops: list[str] = Field(default=[])
    """Names or types of ops that stay float32 in a float16 package."""
    target: Target = "iOS17"
    """The oldest system that runs the package."""
    debug: bool = True
    """Whether the package has the inner tensors as outputs too."""


CANDIDATES = ("coreml", "convert", "torch", "onnx", "trace")
"""The keys that say what a candidate is."""


class CandidateConfig(Section):
    """One conversion that is held against the reference: an existing package, or a recipe that builds it."""

    coreml: PathOrParts = None
    """A package, or component → package; `package:path` is a path inside an installed Python package."""
    convert: ConvertConfig | None = None
    torch: PathOrParts = None
    """As for the reference: another torch model."""
    onnx: PathOrParts = None
    """An ONNX file, or component → file."""
    trace: Annotated[str | None, Field(min_length=1)] = None
    """A recorded trace of the candidate on the same inputs."""
    engine: Literal["auto", "native", "portable"] = "auto"
    """What runs the package; `auto` is native on macOS and portable everywhere else."""
    compute_unit: Literal["ALL", "CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE"] = "ALL"
    """What Core ML may use; for the native engine only."""

    @model_validator(mode="after")
    def _one_origin(self) -> CandidateConfig:
        given = [name for name in CANDIDATES if getattr(self, name) is not None]
        if not given:
            action = "Give 'coreml: PACKAGE', or 'convert: {}' to build one."
            raise refuse("The candidate names no package.", detail=f"expected {' or '.join(CANDIDATES)}", action=action)
        if len(given) > 1:
            raise refuse(
                f"The candidate has both '{given[0]}' and '{given[1]}'.",
                detail="each names a model of its own: coreml one that exists, convert one that is built",
                action="Keep one of them, or make two candidates.",
            )
        return self

    @property
    def kind(self) -> str:
        """Which of `CANDIDATES` it is."""
        return next(name for name in CANDIDATES if getattr(self, name) is not None)


class InputsConfig(Section):
    """What the models are fed with: exactly one of audio, manifest and tensors."""

    audio: Annotated[str | list[str] | None, BeforeValidator(one_of(str, list))] = None
    """Audio files or patterns such as `audio/*.wav`; `package:path` lies inside an installed Python package."""
    manifest: Annotated[str | None, Field(min_length=1)] = None
    """A NeMo manifest, one JSON object per line."""
    tensors: Annotated[str | None, Field(min_length=1)] = None
    """A safetensors file with the component's inputs by their names."""
    adapter: Annotated[str | None, Field(min_length=1)] = None
    """`package.module:function`, which makes a model's inputs of audio: (samples float32[S], sample rate in Hz) →
    input name → array. For models that are no NeMo models."""
    sample_rate_hz: Annotated[int, Field(gt=0)] = 16000
    """What audio is resampled to for an adapter; a NeMo model says itself what it takes."""
    points: Literal["path", "lattice"] = "path"
    """Where the joint is compared: along the greedy path, or everywhere."""

    @model_validator(mode="after")
    def _one_input(self) -> InputsConfig:
        if len(given := self.given) > 1:
            what = "The configuration has more than one input: " + ", ".join(given)
            raise refuse(f"{what}.", detail=_INPUT_HELP)
        if self.adapter is not None and self.tensors is not None:
            raise refuse("An adapter makes inputs of audio, but the inputs are tensors.", key=("adapter",))
        return self

    @property
    def given(self) -> tuple[str, ...]:
        """Which of audio, manifest and tensors there is: one, or none where a trace holds the inputs."""
        return tuple(name for name in ("audio", "manifest", "tensors") if getattr(self, name) is not None)


_INPUT_HELP = "expected exactly one of audio, manifest, tensors"


class ExpectConfig(Section):
    """What else a stage must fulfil to pass."""

    some_positive: bool = False
    """Whether the candidate must have a positive value in every row in which the reference has one."""


class StageConfig(Section):
    """A point of comparison: a pair of tensors, or a slice of a stage above it."""

    reference: Annotated[str | None, Field(min_length=1)] = None
    """The reference's tensor."""
    candidate: Annotated[str | None, Field(min_length=1)] = None
    """The candidate's tensor; of a slice, only where the candidate has a tensor that holds just the slice."""
    of: Annotated[str | None, Field(min_length=1)] = None
    """The stage that this one is a slice of."""
    slice: str | None = None
    """The slice in NumPy's notation, e.g. `"..., -5:"`."""
    log_softmax: bool = False
    """Whether the candidate's tensor holds log-probabilities along its last axis, where the reference's holds logits:
    these are normalised before they are compared."""
    expect: ExpectConfig = ExpectConfig()
    component: Annotated[str | None, Field(min_length=1)] = None
    """The component the tensors lie in; without it the first word of the reference's tensor says so."""

    @property
    def index(self) -> Index | None:
        """The slice as an index; None for a stage that is not a slice."""
        return None if self.slice is None else parse_slice(self.slice)

    @model_validator(mode="after")
    def _pair_or_slice(self) -> StageConfig:
        given = [name for name in ("reference", "candidate", "of", "slice") if getattr(self, name) is not None]
        if given not in (["reference", "candidate"], ["of", "slice"], ["candidate", "of", "slice"]):
            raise refuse(
                "The stage is neither a pair of tensors nor a slice of another stage.",
                detail="expected reference and candidate, or of and slice; got " + (", ".join(given) or "neither"),
            )
        try:
            _ = self.index
        except ValueError as error:
            raise refuse(f"The slice '{self.slice}' {error}.", key=("slice",), action=_SLICE_HELP) from error
        return self


_SLICE_HELP = 'Write it as NumPy does, in quotes: "..., -5:" is the last five of the last axis.'


with warnings.catch_warnings():
    # the key is called json; pydantic warns that this hides its own deprecated method
    warnings.filterwarnings("ignore", message='Field name "json"', category=UserWarning)

    class OutputsConfig(Section):
        """The run directory and the files that are written into it."""

        dir: Annotated[str, Field(min_length=1)] = "outputs"
        """`load` replaces the default by `outputs/NAME` for a configuration `NAME.yaml`."""
        csv: bool = True
        """`stages.csv` and, of models that decide, `decisions.csv`: numbers in full."""
        json: bool = True  # type: ignore[assignment]
        """`report.json`, for scripts."""
        markdown: bool = True
        """`report.md`, for issues."""
        html: bool = True
        """`report.html`, for people: with plots of every stage. Without it no plots are made."""
        junit: bool = True
        """`junit.xml`, for CI systems."""


class Config(Section):
    """A whole configuration."""

    reference: ReferenceConfig
    candidates: dict[str, CandidateConfig] = Field(default={})
    """By name, in the order of the report; may be absent only beside a `sweep`."""
    inputs: InputsConfig = InputsConfig()
    """May be absent only where a trace is the reference: it holds what was fed."""
    stages: dict[str, StageConfig] | None = None
    """By name, in the order of the report; without it stages are found by alignment, or are those of the recipes."""
    limits: Literal["measured", "estimated"] = "measured"
    """Of aligned stages: `measured` runs every candidate several times to tell conversion from precision and to find
    its limits; `estimated` runs each side once and goes by the depth and the declared dtypes."""
    search: bool = False
    """Whether to look for the first bad stage on the first input instead of comparing every one."""
    thresholds: dict[str, Number] = Field(default={})
    """Metric → limit; empty where the limits follow from the precision that a candidate declares."""
    decode: DecodeConfig = DecodeConfig()
    execution: ExecutionConfig = ExecutionConfig()
    check: CheckConfig = CheckConfig()
    sweep: SweepConfig | None = None
    outputs: OutputsConfig = OutputsConfig()

    _path: str | None = PrivateAttr(default=None)

    @property
    def path(self) -> str | None:
        """The file it was loaded from, as the user wrote it."""
        return self._path

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if not self.inputs.given and self.reference.trace is None:
            raise refuse("The configuration has no input.", key=("inputs",), detail=_INPUT_HELP)
        _check_candidates(self)
        for position, name in enumerate(self.stages or {}):
            _check_stage(self, name, position)
        for metric in self.thresholds:
            if metric not in METRICS:
                known = known_names("known metrics", metric, METRICS)
                raise refuse(f"There is no metric '{metric}'.", key=("thresholds", metric), detail=known)
        return self


def _check_candidates(config: Config) -> None:
    if not config.candidates and config.sweep is None:
        action = "Give at least one, e.g. 'raw_logits: {convert: {}}'."
        raise refuse("The configuration has no candidate.", key=("candidates",), action=action)
    for name, candidate in config.candidates.items():
        if not name.strip():
            raise refuse("A candidate has an empty name.", key=("candidates", name))
        _check_parts(config.reference, name, candidate)
        if candidate.convert is not None and config.reference.nemo is None:
            raise refuse(
                f"The candidate '{name}' is to be converted, but the reference is no NeMo model.",
                key=("candidates", name, "convert"),
                action="Convert it yourself and give 'coreml: PACKAGE'.",
            )


def _check_parts(reference: ReferenceConfig, name: str, candidate: CandidateConfig) -> None:
    """A candidate has a model for everything that is compared."""
    given, known = getattr(candidate, candidate.kind), parts_of(reference)
    key = ("candidates", name, candidate.kind)
    if candidate.kind in ("convert", "trace"):
        return
    if isinstance(given, str) and (reference.component == "whole" or len(known) > 1):
        parts = "whole model" if reference.nemo is not None else f"models {', '.join(known)}"
        raise refuse(
            f"The candidate '{name}' is one package, but the reference is the {parts}.",
            key=key,
            detail="expected component: package, e.g. {encoder: Encoder.mlpackage, joint: Joint.mlpackage}",
        )
    if not isinstance(given, dict):
        return
    if reference.nemo is None or reference.component in (*COMPONENTS, "whole"):
        for part in given:
            if part not in (known if reference.nemo is None else COMPONENTS):
                detail = known_names("known components", part, known if reference.nemo is None else COMPONENTS)
                raise refuse(f"There is no component '{part}'.", key=(*key, part), detail=detail)
    if reference.nemo is not None and reference.component != "whole" and reference.component not in given:
        raise refuse(
            f"The candidate '{name}' has no package for the component '{reference.component}'.",
            key=key,
            detail="it has packages for: " + ", ".join(given),
        )


def parts_of(reference: ReferenceConfig) -> tuple[str, ...]:
    """The components that a reference names; one of an empty name where it is one model."""
    if reference.nemo is not None:
        return COMPONENTS if reference.component == "whole" else (reference.component,)
    given = getattr(reference, reference.kind)
    return tuple(given) if isinstance(given, dict) else ("",)


def _check_stage(config: Config, name: str, position: int) -> None:
    stages, component = config.stages or {}, config.reference.component
    stage, key = stages[name], ("stages", name)
    if not name.strip():
        raise refuse("A stage has an empty name.", key=key)
    earlier = list(stages)[:position]
    if stage.of is not None and stage.of not in earlier:
        fault = "which is not above it" if stage.of in stages else "which does not exist"
        known = known_names("stages above it", stage.of, earlier)
        raise refuse(f"The stage '{name}' is a slice of '{stage.of}', {fault}.", key=(*key, "of"), detail=known)
    if config.reference.nemo is not None and component != "whole" and stage.component not in (None, component):
        raise refuse(
            f"The stage '{name}' is of the component '{stage.component}', but only '{component}' is compared.",
            key=(*key, "component"),
            action="Set 'reference.component: whole', or remove the stage.",
        )
