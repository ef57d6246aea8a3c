"""Notebook 05: coverage by several definitions, draws needed, trivial baselines, rare operations."""
