"""Are the weights of the reference in the candidate, unchanged but for what storing them costs? Nothing is run.

Steps: every match of `layerdiff.align.weights` is held to the values of both sides; what no match accounts for is
missing, not needed, of a part of the model that the candidate is not, or cannot be judged; what is left of the
candidate's constants is listed. One weight of either side is in memory at a time.
"""

from layerdiff.audit.records import Audit, Extra, WeightAudit
from layerdiff.audit.weights import audit

__all__ = ["Audit", "Extra", "WeightAudit", "audit"]
