"""Finished heads on corrupted images."""
