"""Builds Core ML packages from the components of a NeMo model, right or with the mistake that people make."""

from __future__ import annotations

from layerdiff.convert.conversion import build, rebuild_joint
from layerdiff.convert.recipes import RECIPES, default_stages

__all__ = ["RECIPES", "build", "default_stages", "rebuild_joint"]
