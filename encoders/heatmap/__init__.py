"""What of a product its vector comes from: where in the picture, which words, which aspects."""
