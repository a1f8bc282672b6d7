"""The engine: jobs, tubes and clients, and what each command does to them. It reads no clock and no socket."""
