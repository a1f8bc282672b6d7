"""What only a daemon does: systemd, privileges, the log on stderr, the health check."""
