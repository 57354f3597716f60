"""Pure tensor functions: the equations of the model, and faster paths that agree with them."""
