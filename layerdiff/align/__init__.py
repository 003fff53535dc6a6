"""Which tensor of one model is which of another, with evidence; nothing here runs a model."""
