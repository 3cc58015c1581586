"""The one door to finished work: whoever reads a run or a sweep opens its folder here."""
