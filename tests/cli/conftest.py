"""The hand-made report of `tests/report`, for commands that read one."""

from tests.report.conftest import drawn

__all__ = ["drawn"]
