"""Shows that nothing which was acknowledged is ever lost: servers are killed, cut off and starved of disk."""
