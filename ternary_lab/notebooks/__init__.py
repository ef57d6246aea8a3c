"""Notebooks as programs: parameters, execution by papermill, checks, and export as HTML.

For: the commands `ternary-lab run` and `ternary-lab check-notebooks`, and the first cell of every notebook.
May import: everything but `cli`.
"""

from ternary_lab.errors import need

need("nbclient", "nbconvert", "nbformat", "papermill")

from ternary_lab.notebooks.cells import find_notebooks as find_notebooks
from ternary_lab.notebooks.cells import shipped_notebooks as shipped_notebooks
from ternary_lab.notebooks.check import check_notebook as check_notebook
from ternary_lab.notebooks.export import export_html as export_html
from ternary_lab.notebooks.parameters import Parameter as Parameter
from ternary_lab.notebooks.parameters import check_parameters as check_parameters
from ternary_lab.notebooks.parameters import parameters as parameters
from ternary_lab.notebooks.parameters import parse_parameters as parse_parameters
from ternary_lab.notebooks.parameters import read_parameters as read_parameters
from ternary_lab.notebooks.parameters import unread_parameters as unread_parameters
from ternary_lab.notebooks.parameters import validate as validate
from ternary_lab.notebooks.run import run_each as run_each
from ternary_lab.notebooks.run import run_notebook as run_notebook
