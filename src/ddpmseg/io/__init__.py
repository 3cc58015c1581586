"""Atomic files, locks between processes, tensors on disk."""
