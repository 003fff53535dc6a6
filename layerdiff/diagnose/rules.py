"""Names the cause of a failing stage by explaining its error.

A rule is a pure function from the evidence of the first bad stage to a finding or None. It fits one hypothesis and
reports the share of the error that the hypothesis removes; that share is its confidence. `RULES` is in the order in
which hypotheses are preferred: what leaves nothing open before what fits numbers, few numbers before many. The first
one that removes nearly all of the error is the cause; another one that is as simple is listed beside it.

To add a cause, write a function and list it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from layerdiff.diagnose.evidence import Evidence, Rule, confined
from layerdiff.diagnose.functions import activation, activation_before, epsilon_changed, softmax_baked, weight_changed
from layerdiff.diagnose.moving import (
    axis_transposed,
    channel_permutation,
    frame_shift,
    length_mask,
    slice_shift,
    wrong_output_width,
)
from layerdiff.diagnose.normalising import log_softmax_baked
from layerdiff.diagnose.remaining import precision_only, unexplained
from layerdiff.diagnose.scaling import bias_changed, bias_missing, channel_scale, row_offset, scale, sign_flip
from layerdiff.diagnose.values import (
    constant_operand,
    constant_output,
    exponential_overflow,
    integer_overflow,
    nan_source,
    overflow,
    stale_state,
    underflow_log_zero,
)
from layerdiff.diagnose.weights import weights_differ
from layerdiff.records import Finding

RULES: Sequence[Mapping[str, Rule]] = (
    {"wrong_output_width": wrong_output_width, "nan_source": nan_source, "overflow": overflow},
    {"log_softmax_baked": log_softmax_baked, "softmax_baked": softmax_baked},
    {"underflow_log_zero": underflow_log_zero, "length_mask": length_mask},
    {"constant_output": constant_output},
    {"integer_overflow": integer_overflow, "exponential_overflow": exponential_overflow},
    {"stale_state": stale_state, "constant_operand": constant_operand},
    {"sign_flip": sign_flip, "axis_transposed": axis_transposed, "bias_missing": bias_missing},
    {"channel_permutation": channel_permutation},
    {"activation": activation, "activation_before": activation_before},
    {"scale": scale, "frame_shift": frame_shift, "slice_shift": slice_shift, "epsilon_changed": epsilon_changed},
    {"bias_changed": bias_changed, "channel_scale": channel_scale},
    {"row_offset": row_offset},
    {"weight_changed": weight_changed},
)
"""Levels of simplicity, each cause → rule. The two of activations find `activation_missing`
and `activation_changed`; `weight_changed` finds `weight_missing` and `channel_permutation` too."""

OF_PRECISION: Mapping[str, Rule] = {
    "overflow": overflow,
    "underflow_log_zero": underflow_log_zero,
    "nan_source": nan_source,
}
"""What a program that is right in float32 can still suffer; said before `precision_only`."""


def diagnose(evidence: Evidence) -> list[Finding]:
    """The findings about the first bad stage, the most confident first; never empty.

    Where the error is confined to some of the channels, those alone are explained first, then the whole tensor. A tie
    between explanations says so (`ties_with`), and a rule that failed itself is named (`failed_rules`).
    """
    failed: dict[str, str] = {}
    found = _found(evidence, failed)
    if failed:
        found[0] = replace(found[0], evidence={**found[0].evidence, "failed_rules": failed})
    return found


def _found(evidence: Evidence, failed: dict[str, str]) -> list[Finding]:
    precise = precision_only(evidence)
    if precise is not None:
        return [*_of_level(OF_PRECISION, evidence, failed), precise]
    if proved := _asked("weights_differ", weights_differ, evidence, failed):
        return [proved]
    part = confined(evidence)
    found = [_placed(one, part) for one in _explanations(part, failed)] if part is not evidence else []
    return found or _explanations(evidence, failed) or [unexplained(evidence)]


def _explanations(evidence: Evidence, failed: dict[str, str]) -> list[Finding]:
    """What the simplest rules say that explain the error; several that are equally simple are a tie."""
    for level in RULES:
        if found := _of_level(level, evidence, failed):
            return [_tied(one, found) for one in found]
    return []


def _of_level(level: Mapping[str, Rule], evidence: Evidence, failed: dict[str, str]) -> list[Finding]:
    asked = (_asked(name, rule, evidence, failed) for name, rule in level.items())
    return sorted((one for one in asked if one is not None), key=lambda finding: -finding.confidence)


def _asked(name: str, rule: Rule, evidence: Evidence, failed: dict[str, str]) -> Finding | None:
    """What a rule says; one that fails itself is noted, and the others go on."""
    try:
        return rule(evidence)
    except Exception as error:  # a rule may meet tensors that nobody thought of, and must not cost the report
        failed[name] = f"{type(error).__name__}: {error}"
        return None


def _tied(finding: Finding, found: Sequence[Finding]) -> Finding:
    """The finding with those beside it that explain as much and are as simple."""
    others = [one.cause for one in found if one is not finding and one.cause != finding.cause]
    return replace(finding, evidence={**finding.evidence, "ties_with": others}) if others else finding


def _placed(finding: Finding, part: Evidence) -> Finding:
    """A finding about some of the channels, saying which."""
    first, count = part.first_channel, part.candidate.shape[part.channel_axis]
    return replace(
        finding,
        summary=f"in channels {first} to {first + count - 1} alone: {finding.summary}",
        evidence={**finding.evidence, "first_channel": first, "channels_at_fault": count},
    )
