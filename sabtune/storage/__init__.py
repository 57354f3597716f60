"""Stores: folders by their addresses, and databases by their URLs."""
