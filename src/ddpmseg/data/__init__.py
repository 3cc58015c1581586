"""Labelled images: folders, the paper's sets, ponies."""
