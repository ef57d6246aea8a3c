"""Runs on disk: training into run directories, resuming, reading, comparing and verifying them.

For: `train` writes a run directory epoch by epoch and `resume` continues one after a kill; `load` reads it back.
May import: the core (up to `training`) and `metrics`.
"""
