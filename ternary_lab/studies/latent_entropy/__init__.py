"""Notebook 03: entropy of the latent code and aggregate posteriors, by epoch."""
