"""Lightning modules and callbacks: wiring of features, heads and metrics."""
