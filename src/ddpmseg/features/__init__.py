"""From images to pixel vectors: noise, extraction at (block, timestep), interpolation."""
