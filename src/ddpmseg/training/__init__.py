"""Lightning modules and callbacks that connect features, heads and metrics."""
