"""One study for each notebook, under the notebook's name: its tables, its figures and its own measures.

For: the numbers and figures that a notebook shows. `statistics` (intervals over seeds) and `probes` (measures of
kept weights) serve several of them.
May import: the core, `metrics`, `runs` and `figures`; another study only where a notebook builds on it.
"""
