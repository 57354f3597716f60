"""Pure tensor functions: the model's equations, and faster implementations of them."""
