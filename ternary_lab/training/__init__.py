"""Training: one optimiser step, an epoch of steps, a cohort of runs side by side, and the generator `train`.

For: everything between a configuration and a row of the history, in memory. `runs` writes it to disk.
Order: `run_state` and `step`, `epoch_steps`, `statenet_learning`, `epoch_figures`, `cohort`, `train`.
May import: the core and `metrics`.
"""
