"""Who decodes shards: it opens the models once, then takes one shard after the other.

The same class works in this process and in every process of a cluster, so both give the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from layerdiff import quiet
from layerdiff.corpus.items import find_corpus
from layerdiff.corpus.models import Models, open_models
from layerdiff.corpus.shards import decode_shard

if TYPE_CHECKING:
    from layerdiff.config import Config
    from layerdiff.corpus.items import Item
    from layerdiff.progress import Progress

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class About:
    """What a worker knows of its models, for the report."""

    reference: Mapping[str, Any]
    sample_rate_hz: int
    frame_s: float
    pieces: Sequence[str]
    """The text of every token."""
    candidates: Mapping[str, Mapping[str, Any]]
    """Candidate → its description."""
    refused: Mapping[str, str]
    """Candidate → why it can't be decoded."""


class Worker:
    """The opened models of a configuration."""

    def __init__(self, config: Config, *, progress: Progress) -> None:
        """Opens them; see `open_models`."""
        self._config, self._corpus = config, find_corpus(config.inputs)
        self.models: Models = open_models(config, progress=progress)

    @property
    def about(self) -> About:
        """What its models are."""
        models = self.models
        described = {name: listener.description for name, listener in models.candidates.items()}
        return About(
            {**models.description, "threads": self._config.execution.threads},
            models.reference.sample_rate_hz,
            models.reference.alphabet.frame_s,
            models.reference.tokenizer.pieces,
            described,
            models.refused,
        )

    def decode(self, items: Sequence[Item]) -> Rows:
        """The rows of a shard."""
        with few_threads(self._config.execution.threads), quiet.third_party():
            return decode_shard(items, self._corpus, self.models, self._config.decode)

    def close(self) -> None:
        """Ends what runs the candidates."""
        self.models.close()


@contextmanager
def few_threads(count: int) -> Iterator[None]:
    """torch with `count` threads: sums over another number of them differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
