"""Notebook 07: held-out operations, smaller training sets, noise, interpolation, latent arithmetic, neighbours."""
