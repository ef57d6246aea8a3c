"""Notebook 08: choice of a checkpoint, ensembles of checkpoints and pathways, calibration."""
