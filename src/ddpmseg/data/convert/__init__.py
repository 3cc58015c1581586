"""Annotations and archives of other programs, as folders that `dataset=folder` reads."""
