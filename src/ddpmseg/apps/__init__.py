"""The programs: each composes the stages in the order of the data and leaves results on disk."""
