"""From logits to decisions: the greedy path of a transducer and the points at which it is compared."""
