"""Interactive views of a run for notebooks. Each view can be used alone.

They may import the core, metrics, runs, figures and studies.generalisation.

    Explorer                   all views of a run on one page
    Map, Inspector             every operation as a point; facts about the chosen ones
    TwoMaps                    the maps of two runs side by side
    EpochSlider                the epochs of a run
    LatentEditor               a latent edited with sliders
    Interpolation              the operations between two codes
    CoverageHoles              operations that a decoder almost never produces
    ScheduleDesigner           schedules set with sliders, and a training under them
    watch, Dashboard           a run directory while it is written
    Selection, CodesByEpoch    the state that views share; the codes of all operations in a run
"""

from ternary_lab.errors import need

need("anywidget", "ipywidgets", "jscatter", "traitlets", "umap")

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
