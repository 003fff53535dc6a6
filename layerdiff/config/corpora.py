"""The sections for many clips and many variants: how clips are decoded, on what, and which packages are built."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from layerdiff.config.section import Section, refuse

Weights = Literal[
    "full",
    "int8",
    "int4",
    "int8_block",
    "int4_block",
    "palette_8",
    "palette_6",
    "palette_4",
    "palette_2",
    "pruned_50",
    "pruned_75",
]
"""`full` as converted; `int8`, `int4` linear per channel, `_block` per block of 32; `palette_N` a table of 2^N values;
`pruned_N` N % of the values, the smallest, set to zero."""

Target = Literal["iOS15", "iOS16", "iOS17", "iOS18"]

Seconds = Annotated[float, Field(allow_inf_nan=False, ge=0)]


class DecodeConfig(Section):
    """How clips become transcripts, and what may change in them."""

    window_s: Annotated[float, Field(allow_inf_nan=False, gt=0)] | None = None
    """The longest piece of audio that is decoded at once; without it what the candidate's packages take."""
    overlap_s: Seconds = 2.0
    """How much two windows have in common."""
    context_frames: Annotated[int, Field(ge=0)] = 1
    """Encoder frames before a later window that are heard and not transcribed."""
    carry: Literal["tokens", "state"] = "tokens"
    """How windows become one transcript: `tokens` decodes each from the start and merges what overlaps, `state` joins
    the encoder's frames, so that the prediction network's state goes on."""
    max_symbols: Annotated[int, Field(ge=1)] | None = None
    """The most tokens on one frame; without it what the checkpoint says."""
    normalise: bool = False
    """Whether words are compared without capitals and punctuation."""
    swaps: bool = False
    """Whether to decode every mixture of reference and candidate components."""
    lengths: Annotated[int, Field(ge=0)] = 0
    """How many clips are also presented with padding, offsets and cuts, to find lengths and masks that are wrong."""
    max_wer: Seconds = 0.0
    """The word error rate against the reference's transcripts, from 0, up to which a candidate passes. Clips that part
    from the reference first at a near-tie don't count."""
    max_shift_ms: Seconds = 20.0
    """By how much tokens may end earlier or later, on average."""


class ExecutionConfig(Section):
    """What a corpus is decoded on."""

    shard: Annotated[int, Field(ge=1)] = 20
    """Clips of a shard; after each one what was found out is kept."""
    threads: Annotated[int, Field(ge=1)] = 1
    """Threads of every process; results are the same to the bit only with the same number."""
    ray: Annotated[str | None, Field(min_length=1)] = None
    """The address of a Ray cluster; `auto` is the one that runs here already, else one of this machine's cores."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Of Ray: how many processes; without it as many as the cluster has cores."""

    @model_validator(mode="after")
    def _workers_of_ray(self) -> ExecutionConfig:
        if self.workers is not None and self.ray is None:
            what = "There are workers, but nothing that runs them: in one process there is one."
            raise refuse(what, key=("workers",), action="Add 'ray: auto', or remove the key.")
        return self


class CheckConfig(Section):
    """By how much a result may be worse than its baseline."""

    stage_factor: Annotated[float, Field(allow_inf_nan=False, ge=1)] = 1.5
    """Of a stage's relative L2 error; machines differ in the last bits of a sum."""
    wer: Seconds = 0.002
    """Of word error rates, from 0: two words in a thousand."""
    flips: Seconds = 0.002
    """Of the share of decisions that differ on the reference's path."""
    shift_ms: Seconds = 5.0
    """Of by how much tokens end elsewhere, on average."""


class SweepConfig(Section):
    """A matrix of packages: every combination of these lists is built, compared and decoded."""

    components: list[Literal["preprocessor", "encoder", "decoder", "joint"]] = Field(default=[])
    """The components that vary; without it all that are compared. The others are the reference's."""
    precision: list[Literal["float32", "float16"]] = Field(default=["float16"])
    """Compute precisions."""
    weights: list[Weights] = Field(default=["full"])
    """How weights are compressed after the conversion."""
    float32_ops: list[list[str]] = Field(default=[[]])
    """Each a list of names or types of ops that stay float32."""
    target: list[Target] = Field(default=["iOS17"])
    """The oldest systems that run the packages."""

    @model_validator(mode="after")
    def _not_empty(self) -> SweepConfig:
        for name in ("precision", "weights", "float32_ops", "target"):
            values = getattr(self, name)
            if not values:
                raise refuse(f"The sweep has no {name}.", key=(name,), action="Name one, or remove the key.")
            if any(values.index(value) != index for index, value in enumerate(values)):
                raise refuse(f"The sweep has a {name} twice.", key=(name,))
        return self
