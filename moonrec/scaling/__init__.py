"""How a metric grows with training tokens, negatives or behaviours: cells over a grid, two laws, their bands.

This package plans, resumes, fits and reports; how a cell is computed is handed in as a function, so that
nothing here knows encoders or ranking models.
"""
