"""Files of sparse autoencoders: which tensors they hold, and what configs beside them say of the features."""
