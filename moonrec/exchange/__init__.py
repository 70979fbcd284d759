"""What a gain of an intermediate metric is worth in CTR AUC: the exchange rate of MOON Embedding.

This package plans, resumes, estimates and reports; how a version is measured and judged is handed in as
functions, so that nothing here knows encoders or CTR models. Paper: https://arxiv.org/abs/2511.11305
"""
