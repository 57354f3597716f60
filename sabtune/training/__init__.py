"""One configuration, from its start to its end."""
