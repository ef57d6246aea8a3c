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

from ternary_lab.widgets.designer import ScheduleDesigner as ScheduleDesigner
from ternary_lab.widgets.desk import DecoderDesk as DecoderDesk
from ternary_lab.widgets.explorer import Explorer as Explorer
from ternary_lab.widgets.holes import Holes as Holes
from ternary_lab.widgets.inspector import Inspector as Inspector
from ternary_lab.widgets.live import Dashboard as Dashboard
from ternary_lab.widgets.live import watch as watch
from ternary_lab.widgets.map import Map as Map
from ternary_lab.widgets.pair import Pair as Pair
from ternary_lab.widgets.path import PathFinder as PathFinder
from ternary_lab.widgets.timeline import Timeline as Timeline
from ternary_lab.widgets.view import View as View
