"""Speed and memory of layerdiff against what they are worth comparing with: `python -m benchmarks [NAME ...]`.

Absolute times depend on the machine, so every measurement is a ratio too, of runs that were made in turn in one
process. Nothing here is a test: tests that time themselves fail on busy machines.
"""
