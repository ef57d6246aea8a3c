"""Sweeps: a design over configuration keys, trained in cohorts on this machine or on a Ray cluster.

For: `ternary-lab sweep` and notebook 10: the design, its budget, the engines, main effects and their figures.
May import: the core, `metrics`, `runs`, `figures` and `studies.statistics`.
"""
