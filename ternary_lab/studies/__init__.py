"""Studies: the tables, the figures and the measures of each notebook.

For: the numbers and figures of the notebooks. Each notebook has a study of the same name. `statistics` (intervals over
seeds) and `probes` (measures of the weights in checkpoints) serve several studies. `score` measures any generator,
beside published models.
May import: the core, `metrics`, `runs` and `figures`. A study may import another study only where a notebook builds on
that study.
"""
