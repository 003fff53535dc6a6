"""Which stages a configuration proposes: pairs of module outputs that alignment finds on one feed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from layerdiff import config as configuration
from layerdiff.proposal import Proposal
from layerdiff.records import COMPONENTS
from layerdiff.run.aligned import CONTRACT_OUTPUTS, feeds
from layerdiff.run.aligned_trial import AlignedTrial
from layerdiff.run.inputs import find_inputs
from layerdiff.run.parts import References, open_references, open_runs
from layerdiff.sources.nemo import NemoSource

if TYPE_CHECKING:
    from layerdiff.progress import Progress

MOST = 40
"""More pairs are not proposed: those of the outer modules are, and comparing all takes no stages at all."""


@dataclass(frozen=True)
class StageEntry:
    """One line of the stage map, and what is said of it."""

    name: str
    values: Mapping[str, object]
    remark: str = ""


def with_stages(proposal: Proposal, *, progress: Progress) -> Proposal:
    """The proposal with stages, found on its first input.

    Raises:
        LayerdiffError: a model can't be opened, or doesn't take the input.
    """
    config = configuration.from_mapping(proposal.values, place="the proposal")
    name, entry = next(iter(config.candidates.items()))
    if entry.convert is not None:
        return proposal  # the recipes know their stages
    references = open_references(config, progress=progress)
    runs = open_runs(name, entry, config, references, progress=progress)
    inputs = find_inputs(config.inputs)
    inputs.recordings = inputs.recordings[:1]
    met: dict[str, AlignedTrial] = {}
    for part, _, feed in feeds(config, inputs, references):
        if part in runs and part not in met:
            outputs = CONTRACT_OUTPUTS.get(part) if references.nemo is not None else None
            met[part] = AlignedTrial(name, part, references.parts[part], runs[part], outputs=outputs)
            met[part].meet(feed)
    found = [pair for part, trial in met.items() for pair in _pairs(part, trial, references)]
    chosen = _outer(found)
    stages = [_entry(pair) for pair in chosen]
    stages += _slices(chosen, references)
    return replace(proposal, stages=tuple(stages), further=len(found) - len(chosen))


@dataclass(frozen=True)
class Pair:
    """A pair of tensors that a stage map can name."""

    reference: str
    """The shortest of the reference's names for its tensor."""
    candidate: str
    how: str
    """How it was found, in words."""
    is_output: bool
    """Whether the package returns it."""

    @property
    def depth(self) -> int:
        """How deep the module of the reference lies."""
        return -1 if self.is_output else self.reference.count(".") + self.reference.count("/")


def _pairs(part: str, trial: AlignedTrial, references: References) -> Iterator[Pair]:
    """The pairs of a component; what the package returns is always among them, be it a second time."""
    meeting, known = trial.meeting, None
    if references.nemo is not None and part in COMPONENTS:
        known = set(NemoSource.from_model(references.nemo).tensor_names(part))
    if meeting is None or meeting.alignment is None:
        return
    returned = {meeting.candidate.by_name[name].name: name for name in meeting.candidate.outputs}
    own = (
        []
        if part == "joint" or known is None
        else [name for name in CONTRACT_OUTPUTS.get(part, ())[:1] if name in returned.values()]
    )
    for link in meeting.alignment.pairs:
        node = meeting.reference.by_name[link.reference]
        names = [name for name in (link.reference, node.name, *node.aliases) if known is None or name in known]
        if known is not None:  # what a component returns may be moved or normalised
            names = [name for name in names if name != part]
        tensor = meeting.candidate.by_name[link.candidate].name
        is_output = tensor in returned
        is_whole = link.reference_rows is None and link.candidate_rows is None
        if names and is_whole and (is_output or not link.composite) and link.candidate not in own:
            shortest = min(names, key=lambda name: name.count(".") + name.count("/"))
            how = f"by {link.method}, {link.confidence:.0%} sure"
            yield Pair(shortest, returned.get(tensor, link.candidate), how, is_output)
    yield from (Pair(part, name, "what the component returns", True) for name in own)


def _entry(pair: Pair) -> StageEntry:
    """A pair as a line of the stage map; outputs are called as the package calls them."""
    values = {"reference": pair.reference, "candidate": pair.candidate}
    return StageEntry(pair.candidate if pair.is_output else pair.reference, values, pair.how)


def _outer(pairs: Sequence[Pair]) -> list[Pair]:
    """Of many pairs the outputs, and those of modules that lie least deep."""
    depths = sorted({pair.depth for pair in pairs})
    limits = [depth for depth in depths if sum(pair.depth <= depth for pair in pairs) <= MOST]
    limit = limits[-1] if limits else depths[0] if depths else 0
    return [pair for pair in pairs if pair.depth <= limit]


def _slices(pairs: Sequence[Pair], references: References) -> Iterator[StageEntry]:
    """Of a token-and-duration transducer (TDT): the logits that its joint returns in two parts."""
    durations = len(references.description.get("durations") or ())
    if not durations or not hasattr(references.nemo, "joint"):
        return
    last = ("joint.joint_net", f"joint.joint_net.{len(references.nemo.joint.joint_net) - 1}")
    logits = [_entry(pair).name for pair in pairs if pair.is_output and pair.reference in last]
    if not logits:
        return
    yield StageEntry("vocab_logits", {"of": logits[-1], "slice": f"..., :-{durations}"})
    expected = {"of": logits[-1], "slice": f"..., -{durations}:", "expect": {"some_positive": True}}
    yield StageEntry("duration_logits", expected)
