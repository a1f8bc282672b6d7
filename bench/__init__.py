"""The benches: `pytest bench`."""
