"""The contrastive objective of post-training: what is pulled together, what is pushed apart, and how."""
