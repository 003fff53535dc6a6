"""The fault catalogue: faults put into real networks before they are converted, and what layerdiff says of them.

`python -m benchmarks.faults [CAUSE ...]` scores three things: is the first bad stage found, is the cause named first,
is a healthy conversion left alone. Places and strengths are drawn at random from a seed.
"""
