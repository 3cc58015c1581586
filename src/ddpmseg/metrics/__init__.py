"""Masks to numbers."""
