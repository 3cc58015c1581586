"""The package as Python programs use it; its names are those of `import ddpmseg`."""
