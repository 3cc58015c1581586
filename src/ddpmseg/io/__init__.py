"""Files that are whole or absent, locks between processes, tensors on disk."""
