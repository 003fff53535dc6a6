"""From a failing stage to its cause, and from its error to what it does to decoding."""
