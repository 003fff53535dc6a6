"""Fuzzing of the loaders of the portable engine: whatever is wrong with a model, a LayerdiffError says so."""
