"""Faults: what befalls a run on a real machine, done on purpose; afterwards nothing is lost and nothing is wrong.

What is promised stands in docs/reliability.md, a line a promise, with its tests. `make faults` runs those tests with
many more repetitions and prints the lines as a table of what was tried and what was lost.
"""
