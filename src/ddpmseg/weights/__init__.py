"""Reads weight files as plain tensors, executes none, and recognises networks by parameters."""
