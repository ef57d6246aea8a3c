"""Interactive views for notebooks, thin over figures and metrics."""

from ternary_lab.widgets.dashboard import watch as watch
