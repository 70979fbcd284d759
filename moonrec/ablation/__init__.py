"""What each part of the encoder's training is worth: the full model, and every row without one part.

This package plans, resumes, counts and reports; how a cell is trained and tested is handed in as functions,
so that nothing here knows encoders.
"""
