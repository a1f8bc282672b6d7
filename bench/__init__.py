"""The benches: `make bench`, `make bench-all`, `make performance`."""
