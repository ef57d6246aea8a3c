"""Notebook 09: repairs of v5.5's defects, recipes beyond v5.5, other generators as baselines."""
