"""Every (block, timestep) of a network: the grid, its probes, its cells and their report."""
