"""Many jobs of one command: planned, run side by side, gathered."""
