"""The first bad op of a large model, found without comparing all of it.

The outputs are compared first. If one fails, what it is computed from is searched: a few stages at a time, evenly
spread over those that are not decided yet, halve the question much faster than comparing every one would. An error
stays in all that is computed from it, so before the first bad stage everything passes. Where branches hide that, the
operands of what was found are compared too, and the search goes on in the one that fails. What is left is a stage that
fails although everything it is computed from passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from layerdiff.run.aligned_stages import AlignedStage

if TYPE_CHECKING:
    from layerdiff.records import StageResult
    from layerdiff.run.aligned_trial import AlignedTrial
    from layerdiff.sources import Feed

WAYS = 8
"""How many stages are compared in one round."""


@dataclass
class Search:
    """One search in one trial on one feed."""

    trial: AlignedTrial
    feed: Feed
    label: str
    known: dict[str, StageResult] = field(default_factory=dict)
    """Stage → its row, of all that were compared."""
    rounds: int = 0

    def run(self) -> str:
        """Searches, and says what was found and how much of the model was compared for it."""
        found = self.first_bad()
        total = len(self.trial.meeting.stages) if self.trial.meeting else 0
        effort = f"{len(self.known)} of {total} stages compared in {self.rounds} rounds"
        if found is None:
            return f"no output fails; {effort}"
        return f"{found} fails though all that it is computed from passes; {effort}"

    def first_bad(self) -> str | None:
        """The first bad stage; None if no output fails."""
        self.trial.meet(self.feed)
        order = [aligned.stage.name for aligned in self.trial.stages]
        ends = self.outputs()
        self.compare(ends)
        target = next((name for name in ends if self.fails(name)), None)
        while target is not None:
            found = self.boundary([*(name for name in order if name in self.ancestors(target)), target])
            sources = self.trial.sources.get(found, ())
            self.compare(sources)
            target = next((name for name in sources if self.fails(name)), None)
            if target is None:
                return found
        return None

    def outputs(self) -> list[str]:
        """The stages that hold what the candidate returns; the last one if there is none."""
        meeting = self.trial.meeting
        stages: Sequence[AlignedStage] = self.trial.stages
        returned = set(meeting.candidate.outputs) if meeting else set()
        found = [aligned.stage.name for aligned in stages if aligned.stage.candidate in returned]
        return found or [aligned.stage.name for aligned in stages[-1:]]

    def ancestors(self, name: str) -> set[str]:
        """Every stage that a stage is computed from."""
        found: set[str] = set()
        pending = [name]
        while pending:
            new = [source for source in self.trial.sources.get(pending.pop(), ()) if source not in found]
            found.update(new)
            pending.extend(new)
        return found

    def boundary(self, chain: Sequence[str]) -> str:
        """A stage of a chain that fails while the one before it passes; the last one is known to fail."""
        low, high = -1, len(chain) - 1
        while high - low > 1:
            step = max(1, (high - low) // (WAYS + 1))
            places = list(range(low + step, high, step))[:WAYS]
            self.compare([chain[place] for place in places])
            bad = next((place for place in places if self.fails(chain[place])), high)
            low = max([place for place in places if place < bad], default=low)
            high = bad
        return chain[high]

    def compare(self, names: Iterable[str]) -> None:
        """One round: the given stages, as far as they are not known yet."""
        from layerdiff.run.aligned import compare_feed

        wanted = [name for name in dict.fromkeys(names) if name not in self.known]
        if not wanted:
            return
        self.trial.chosen = set(wanted)
        compare_feed([self.trial], self.feed, self.label)
        self.known |= {row.name: row for row in self.trial.results()}
        self.trial.chosen = set(self.known)
        self.rounds += 1

    def fails(self, name: str) -> bool:
        """Whether a stage that was compared fails."""
        return name in self.known and self.known[name].status == "fail"
