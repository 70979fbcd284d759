"""Zero-shot evaluation of an encoder: retrieval, classification and attribute prediction."""
