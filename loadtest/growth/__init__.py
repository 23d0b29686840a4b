"""How cost grows: the CPU of each operation with few and with many live holds, buyers and events.

`python -m loadtest.growth`, or `make bench-growth`. Each size has stores of its own (a rig), so that the
measurements of all sizes can take turns in one run.
"""
