"""Weight files: read as plain tensors, recognised by their parameters, never executed."""
