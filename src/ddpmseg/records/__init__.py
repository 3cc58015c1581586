"""What finished and half-finished work leaves on disk, written and read back."""
