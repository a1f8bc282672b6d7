"""Crash tests: servers are killed, lose power or run out of disk space, and never lose what was acknowledged."""
