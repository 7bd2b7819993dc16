"""What is learned of activations: rotations, masks, principal components, mean differences."""
