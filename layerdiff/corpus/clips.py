"""One clip through the reference and every candidate: transcripts, differences, and what each component costs.

Every mixture of components is decoded once at most, and what mixtures have in common (mel, encoder frames) is computed
once: with k components there are 2^k mixtures, but only as many encodings as there are choices before the encoder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from layerdiff.corpus.lengths import audited
from layerdiff.decode.clip import Heard, Piece, features_of, heard, pieces_of
from layerdiff.decode.comparison import Forced, Pair, Shift, first_divergence, forced_counts, forced_decisions, shift
from layerdiff.decode.parts import component_names, mixture
from layerdiff.decode.signals import Energy
from layerdiff.decode.tally import Bad, Tally
from layerdiff.decode.words import Edits, character_edits, normalised, word_edits
from layerdiff.errors import LayerdiffError

if TYPE_CHECKING:
    from layerdiff.config import DecodeConfig
    from layerdiff.corpus.models import Listener, Models
    from layerdiff.decode.parts import Features, Parts
    from layerdiff.decode.windows import Window, Windowing
    from layerdiff.records import Array, Clip

Taken = frozenset[str]
"""Names of the components that are the candidate's; the others are the reference's."""
REFERENCE: Taken = frozenset()


@dataclass
class Hearing:
    """All mixtures of a clip, each computed when it is first asked for."""

    models: Models
    config: DecodeConfig
    clip: Clip
    _features: dict[Any, list[tuple[Window, Features]]] = field(default_factory=dict)
    _pieces: dict[Any, tuple[Piece, ...]] = field(default_factory=dict)
    _heard: dict[Any, Heard] = field(default_factory=dict)

    @property
    def samples(self) -> Array:
        """float32[S]"""
        return self.clip.samples

    def prepare(self, component: str) -> None:
        """Computes the mel, or the encoder's frames, of every mixture that will be asked for.

        What can't be computed is left for `compare_clip` to find out.
        """
        for listener in self.models.candidates.values():
            wanted = (frozenset(taken) for taken in ((), *mixtures_of(listener, self.models)))
            every = frozenset(listener.given)
            for taken in wanted if self.config.swaps else (REFERENCE, every):
                with suppress(LayerdiffError):
                    (self.features if component == "preprocessor" else self.pieces)(listener, taken)

    def parts(self, listener: Listener, taken: Taken) -> Parts:
        return mixture(self.models.reference.parts, listener.given, taken)

    def heard(self, listener: Listener, taken: Taken) -> Heard:
        """The clip as decoded by a mixture."""
        key = _key(listener, taken)
        if key not in self._heard:
            pieces, overlap = self.pieces(listener, taken), listener.windowing.overlap
            parts = self.parts(listener, taken)
            self._heard[key] = heard(parts, pieces, self.models.reference.alphabet, overlap=overlap)
        return self._heard[key]

    def pieces(self, listener: Listener, taken: Taken) -> tuple[Piece, ...]:
        """The encoder's frames of a mixture."""
        key = _key(listener, taken & {"preprocessor", "encoder"})
        if key not in self._pieces:
            features = self.features(listener, taken)
            self._pieces[key] = pieces_of(self.parts(listener, taken), features, carry=self.config.carry)
        return self._pieces[key]

    def features(self, listener: Listener, taken: Taken) -> list[tuple[Window, Features]]:
        """The mel of a mixture."""
        key = _key(listener, taken & {"preprocessor"})
        if key not in self._features:
            self._features[key] = features_of(self.parts(listener, taken), self.samples, listener.windowing)
        return self._features[key]


def _key(listener: Listener, taken: Taken) -> tuple[Windowing, str, Taken]:
    """What tells results apart: the reference's own are the same for all candidates with its windows."""
    return listener.windowing, listener.name if taken else "", taken


def compare_clip(hearing: Hearing, *, is_audited: bool = False) -> dict[str, Any]:
    """The row of a clip: plain JSON values; `is_audited` adds what its lengths tell.

    A candidate that can't be run on the clip has a `problem` instead of results.

    Raises:
        LayerdiffError: the reference itself can't be run on it.
    """
    models, config, clip = hearing.models, hearing.config, hearing.clip
    text = _worded(clip.text, config)
    row: dict[str, Any] = {
        "clip": clip.name,
        "samples": len(clip.samples),
        "duration_s": clip.duration_s,
        "text": clip.text,
        "notes": list(clip.notes),
        "candidates": {},
    }
    first = next(iter(models.candidates.values()), models.alone)
    row["reference"] = _transcript(hearing.heard(first, REFERENCE), models, text, config)
    for name, listener in models.candidates.items():
        reference = hearing.heard(listener, REFERENCE)
        try:
            row["candidates"][name] = _compared(hearing, listener, reference, text)
            if is_audited:
                row["candidates"][name]["lengths"] = audited(hearing, listener, reference)
        except LayerdiffError as error:
            row["candidates"][name] = {"problem": str(error)}
    return row


def _compared(hearing: Hearing, listener: Listener, reference: Heard, text: str | None) -> dict[str, Any]:
    """One candidate's part of a row."""
    models, config = hearing.models, hearing.config
    every = frozenset(listener.given)
    own = hearing.heard(listener, every)
    row = _transcript(own, models, text, config) | _against(own, reference, models, config)
    divergence = first_divergence(reference, own, frame_s=models.reference.alphabet.frame_s)
    pairs = forced_decisions(hearing.parts(listener, every), hearing.pieces(listener, every), reference)
    points = sum(len(path.decisions) for path in reference.paths)
    row |= {
        "windows": len(hearing.features(listener, every)),
        "divergence": None if divergence is None else {**asdict(divergence), "near_tie": divergence.is_near_tie},
        "forced": asdict(forced_counts(pairs, points)),
        "signals": {name: asdict(found) for name, found in signals(hearing, listener, pairs).items()},
    }
    if config.swaps:
        row["mixtures"] = {
            "+".join(taken): _mixed(hearing.heard(listener, frozenset(taken)), reference, models, text, config)
            for taken in mixtures_of(listener, models)
        }
    return row


def signals(hearing: Hearing, listener: Listener, pairs: Sequence[Pair]) -> dict[str, Energy]:
    """How far mel, encoder frames and logits are from the reference's, as far as the candidate computes them.

    Mel and frames are what the candidate's components give one after the other; the logits are those on the reference's
    path. Lengths that differ are compared as far as both reach.
    """
    every, found = frozenset(listener.given), dict[str, Energy]()
    if "preprocessor" in every:
        sides = zip(hearing.features(listener, REFERENCE), hearing.features(listener, every), strict=True)
        found["mel"] = _summed(_valid(ours["mel"].T, theirs["mel"].T) for (_, ours), (_, theirs) in sides)
    if every & {"preprocessor", "encoder"}:
        pieces = zip(hearing.pieces(listener, REFERENCE), hearing.pieces(listener, every), strict=True)
        found["encoder"] = _summed(_valid(ours.frames, theirs.frames) for ours, theirs in pieces)
    logits = [(a.logits, b.logits) for a, b in pairs if a.logits is not None and b.logits is not None]
    if logits:
        found["logits"] = Energy.between(*(np.stack(side) for side in zip(*logits, strict=True)))
    return found


def _valid(reference: Array, candidate: Array) -> Energy:
    length = min(len(reference), len(candidate))
    return Energy.between(reference[:length], candidate[:length])


def _summed(parts: Iterable[Energy]) -> Energy:
    return sum(parts, start=Energy())


def mixtures_of(listener: Listener, models: Models) -> Iterator[tuple[str, ...]]:
    """Every choice of the candidate's components but none at all, in the order of the components."""
    names = [name for name in component_names(models.reference.parts) if name in listener.given]
    for count in range(1, len(names) + 1):
        yield from combinations(names, count)


def _mixed(own: Heard, reference: Heard, models: Models, text: str | None, config: DecodeConfig) -> dict[str, Any]:
    row = _transcript(own, models, text, config) | _against(own, reference, models, config)
    return {name: row[name] for name in ("text_words", "words", "shift") if name in row}


def _transcript(own: Heard, models: Models, text: str | None, config: DecodeConfig) -> dict[str, Any]:
    """What a model makes of a clip, and how that compares with the manifest's text."""
    said = models.reference.tokenizer.text(own.tokens)
    row: dict[str, Any] = {
        "transcript": said,
        "tokens": [[e.token, e.frame, e.duration] for e in own.emissions],
    }
    if text is not None:
        worded = _worded(said, config) or ""
        row |= {"text_words": asdict(word_edits(text, worded))}
        row |= {"text_characters": asdict(character_edits(text, worded))}
    return row


def _against(own: Heard, reference: Heard, models: Models, config: DecodeConfig) -> dict[str, Any]:
    """How a transcript compares with the reference's."""
    ours, theirs = (_worded(models.reference.tokenizer.text(side.tokens), config) or "" for side in (reference, own))
    return {
        "words": asdict(word_edits(ours, theirs)),
        "characters": asdict(character_edits(ours, theirs)),
        "shift": asdict(shift(reference.emissions, own.emissions)),
    }


def _worded(text: str | None, config: DecodeConfig) -> str | None:
    """A text as its words are compared."""
    return normalised(text) if text is not None and config.normalise else text


# ------------------------------------------------------------------ counting

EDITS = ("text_words", "text_characters", "words", "characters")
"""The parts of a row that count edits."""


def tally_of(row: Mapping[str, Any], side: Mapping[str, Any]) -> Tally:
    """What one model's part of a row adds to the counts; `side` is the reference's, a candidate's or a mixture's."""
    if "problem" in side:
        return Tally(problems=1)
    counts: dict[str, Any] = {name: Edits(**side[name]) for name in EDITS if name in side}
    counts |= {"clips": 1, "with_text": int("text_words" in side)}
    if "tokens" in side:
        counts["durations"] = dict(Counter(duration for _, _, duration in side["tokens"]))
    if "shift" in side:
        counts["shift"] = Shift(**side["shift"])
    if "signals" in side:
        counts["signals"] = {name: Energy(**found) for name, found in side["signals"].items()}
    if "forced" in side:
        counts |= _of_candidate(row, side, counts["words"], counts["shift"])
    return Tally(**counts)


def _of_candidate(row: Mapping[str, Any], side: Mapping[str, Any], words: Edits, moved: Shift) -> dict[str, Any]:
    divergence = side["divergence"]
    bad = Bad(words.errors, moved.end_frames_abs, row["index"], row["clip"])
    return {
        "excused_words": words if divergence is not None and divergence["near_tie"] else Edits(),
        "same_text": int(side["transcript"] == row["reference"]["transcript"]),
        "same_path": int(divergence is None),
        "forced": Forced(**side["forced"]),
        "worst": (bad,) if bad.errors or bad.end_frames else (),
    }
