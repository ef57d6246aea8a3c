"""Interactive views for notebooks, thin over the library; each can stand alone.

    Explorer           all of them on one page
    Map, Inspector     every operation as a point; what is known of the chosen ones
    Pair               the maps of two runs side by side
    Timeline           the epochs of a run
    DecoderDesk        a latent by sliders, decoded live
    PathFinder         from one operation's code to another's
    Holes              what a decoder almost never gives
    ScheduleDesigner   schedules by slider, and a training under them
    watch, Dashboard   a run directory, followed while it is written
"""

from ternary_lab.errors import need

need("anywidget", "ipywidgets", "jscatter", "traitlets", "umap")

from ternary_lab.explorer.coverage_holes import Holes as Holes
from ternary_lab.explorer.epoch_slider import Timeline as Timeline
from ternary_lab.explorer.explorer import Explorer as Explorer
from ternary_lab.explorer.inspector import Inspector as Inspector
from ternary_lab.explorer.interpolation import PathFinder as PathFinder
from ternary_lab.explorer.latent_editor import DecoderDesk as DecoderDesk
from ternary_lab.explorer.live_training import Dashboard as Dashboard
from ternary_lab.explorer.live_training import watch as watch
from ternary_lab.explorer.map import Map as Map
from ternary_lab.explorer.schedule_designer import ScheduleDesigner as ScheduleDesigner
from ternary_lab.explorer.selection import View as View
from ternary_lab.explorer.two_maps import Pair as Pair
