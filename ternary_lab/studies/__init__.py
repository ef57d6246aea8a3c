"""One study for each notebook, under the notebook's name: its tables, its figures and its own measures.

For: the numbers and figures of the notebooks. `statistics` (intervals over seeds) and `probes` (measures of kept
weights) serve several studies.
May import: the core, `metrics`, `runs` and `figures`; another study only where a notebook builds on it.
"""
