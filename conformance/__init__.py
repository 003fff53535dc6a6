"""coremltools' own tests, run against the portable engine: `python -m conformance run [SUITE ...]`.

The wheel of coremltools ships its test suite. On macOS its tests predict with Core ML; here they predict with
`layerdiff.enable_predict()`, on any machine that can fork. No file of coremltools is changed. What is counted is a
test that predicted and compared; what is excused is listed in `excused.toml`, each entry with its reason.
"""
