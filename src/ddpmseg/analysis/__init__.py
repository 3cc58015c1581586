"""From numbers of every (block, timestep) to curves, groups of classes, clusters and a report."""
