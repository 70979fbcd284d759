"""From a photo or words to the products of an embedding set that are nearest to them."""
