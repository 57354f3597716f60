"""Training and evaluation of one configuration, from its start to its end."""
