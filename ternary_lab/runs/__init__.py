"""Runs on disk: training into run directories, and resuming, reading, comparing and verifying of runs.

For: all files of a run. `train` writes a run directory epoch by epoch. `resume` finds the state from which a killed run
continues. `load` reads run directories.
May import: the core (up to `training`) and `metrics`.
"""
