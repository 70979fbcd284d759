"""The parts of `examples/candidates_to_ranking.py`: what may be learnt from, ranked lists, their page."""
