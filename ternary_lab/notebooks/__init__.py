"""Notebooks as programs: their parameters, running one or many by papermill, checking and exporting them.

For: `ternary-lab run`, `check-notebooks` and `export`, and the first cell of every notebook.
May import: everything but `cli`.
"""
