"""Measure CPU time per unit of work, beside other libraries in the same run."""
