"""Loggers and Weights & Biases."""
