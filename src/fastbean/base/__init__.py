"""What every layer builds on: memory for jobs, a hash table, growable bytes, clocks, limits, debug counters."""
