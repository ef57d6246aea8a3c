"""Interactive views of a run for notebooks. Each view can be used alone.

The modules of this package may import the core, metrics, runs, figures and studies.generalisation.

    Explorer                   all views of a run on one page
    Map                        a scatter plot with one point for each operation
    Inspector                  facts about the chosen operations
    TwoMaps                    the maps of two runs side by side
    EpochSlider                the epochs of a run
    LatentEditor               sliders that change a latent
    Interpolation              the operations between two codes
    CoverageHoles              operations that a decoder almost never produces
    ScheduleDesigner           sliders that set the schedules, and a training with these schedules
    watch, Dashboard           a live view of a run directory while a process writes to it
    Selection                  the state that views share
    CodesByEpoch               the codes of all operations, at each epoch of a run
"""

from ternary_lab.errors import need

need("anywidget", "ipywidgets", "jscatter", "traitlets")

from ternary_lab.explorer.codes_by_epoch import CodesByEpoch as CodesByEpoch
from ternary_lab.explorer.coverage_holes import CoverageHoles as CoverageHoles
from ternary_lab.explorer.dashboard import Dashboard as Dashboard
from ternary_lab.explorer.dashboard import watch as watch
from ternary_lab.explorer.epoch_slider import EpochSlider as EpochSlider
from ternary_lab.explorer.explorer import Explorer as Explorer
from ternary_lab.explorer.inspector import Inspector as Inspector
from ternary_lab.explorer.interpolation import Interpolation as Interpolation
from ternary_lab.explorer.latent_editor import LatentEditor as LatentEditor
from ternary_lab.explorer.map import Map as Map
from ternary_lab.explorer.schedule_designer import ScheduleDesigner as ScheduleDesigner
from ternary_lab.explorer.selection import Selection as Selection
from ternary_lab.explorer.two_maps import TwoMaps as TwoMaps
