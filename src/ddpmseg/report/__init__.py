"""The report of a sweep: figures, findings and one self-contained page."""
