"""What is done at a place: the operation, the coordinates, and where the value comes from."""
