"""Widgets for notebooks that need a kernel.

The modules of this package may import the core, metrics, runs, figures, studies and page.

    Explorer                   the page of a run
    TwoMaps                    the maps of two runs side by side, in one page
    ScheduleDesigner           sliders that set the schedules, and a training with these schedules
    watch, Dashboard           a live view of a run directory while a process writes to it
    StillMap                   maps of a run as a picture
"""

from ternary_lab.errors import need

need("anywidget", "ipywidgets", "traitlets")

from ternary_lab.explorer.dashboard import Dashboard as Dashboard
from ternary_lab.explorer.dashboard import watch as watch
from ternary_lab.explorer.explorer import Explorer as Explorer
from ternary_lab.explorer.page import StillMap as StillMap
from ternary_lab.explorer.schedule_designer import ScheduleDesigner as ScheduleDesigner
from ternary_lab.explorer.two_maps import TwoMaps as TwoMaps
