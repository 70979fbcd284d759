"""Product question answering made from the catalogue itself, and the parts of training on it."""
