"""Sweeps: designs over configuration keys, trained in cohorts on this machine or on a Ray cluster.

The package serves `ternary-lab sweep` and notebook 10. It holds the design, its budget, the engines, the main effects
and the figures. It may import the core, `metrics`, `runs`, `figures` and `studies.statistics`.
"""
