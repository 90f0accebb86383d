"""Type-preserving augmentations of an arm's input."""
