"""A cluster from outside: its head's jobs, reached through SSH."""
