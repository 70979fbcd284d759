"""A generative multimodal language model (Qwen-VL style) as a product encoder: `encoders.mllm.encoder`."""
