"""What every layer stands on: memory for jobs, a hash table, growable bytes, clocks, limits, debug counters."""
