"""Retrieval: two towers over ids, behaviour and frozen vectors; an index of the items; candidates out."""
