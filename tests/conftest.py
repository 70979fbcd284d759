"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# The same examples each time, so that a failure is that of a change. `make test-search` draws new ones.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")
