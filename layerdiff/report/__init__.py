"""Renders a `Report`: to the terminal, and into the files of a run directory.

`rows` and `cells` hold every value and its text once; what is printed and what is written is made from them,
so that no two outputs can disagree. Nothing here computes anything about a model.
"""
