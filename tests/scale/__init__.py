"""What the server claims of scale: bounded steps, bounded memory, few system calls, no work when nothing happens."""
