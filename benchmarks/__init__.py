"""What the package takes, side by side with the straightforward way to the same numbers."""
