"""Where a store is: folders by their addresses, databases by their URLs."""
