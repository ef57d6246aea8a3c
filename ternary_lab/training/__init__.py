"""Training: an optimiser step, an epoch, a cohort of runs side by side, and the generator `train`.

The package computes, in memory, the rows of the history from a configuration. The package `runs` writes them to disk.
The order of its modules is `run_state` and `step`, `epoch_steps`, `statenet_learning`, `epoch_figures`, `cohort`,
`train`. A module imports only modules before it, the core, and `metrics`.
"""
