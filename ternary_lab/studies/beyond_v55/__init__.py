"""Notebook 09: v5.5's defects repaired one by one, recipes beyond it, other generators as baselines."""
