"""Notebook 04: the disruption at epoch 50, its loss terms, and counterfactual runs without its causes."""
