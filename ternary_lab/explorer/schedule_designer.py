"""A view with sliders that set the schedules, the curves of the schedules, and a live training."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from functools import partial
from pathlib import Path

import ipywidgets as widgets

from ternary_lab.arguments import read_path, short_path
from ternary_lab.config import Config
from ternary_lab.config_files import load_config
from ternary_lab.errors import ConfigError
from ternary_lab.explorer.dashboard import SHORTEST, Dashboard
from ternary_lab.explorer.explorer import Explorer
from ternary_lab.explorer.view import View, row
from ternary_lab.figures.live import draw_schedules
from ternary_lab.figures.save import Drawing, image
from ternary_lab.runs.load import RunRecord
from ternary_lab.runs.train import run_experiment

FIRST_SEED = 42
LABEL = "12em"
"""Width of the label of a slider. The longest label fits."""
LONGEST = 400
"""Largest number of epochs to train."""
AFTER = 10
"""Number of epochs that the default training goes on after the epoch at which β_B leaves 0."""
MODES = {
    "lagged (v5.5: a jump)": "lagged_after_warmup", "linear warm-up": "linear_warmup", "jump": "jump",
    "constant": "constant", "off": "off",
}


class ScheduleDesigner(View):
    """Controls for the mode and warm-up of β_B, for ρ, τ and the learning rate. A button trains a few seeds with them.

    A training is stored in `folder`, in a directory whose name depends on the settings. A training with the same
    settings and the same number of epochs continues the stored training. The button "stop" ends the training after the
    current epoch has been stored. A button for each trained seed then opens its run in an `Explorer` below.
    """

    title = "Schedule designer"

    def __init__(self, base: Config | str = "v5_5", folder: str | Path = "../runs/designed") -> None:
        super().__init__()
        self.base = load_config(base) if isinstance(base, str) else base
        self.folder = read_path(folder).absolute()
        self.dashboard: Dashboard | None = None
        self.explorer: Explorer | None = None
        self._stop = threading.Event()
        self._training: threading.Thread | None = None
        self._make_controls()
        epochs = min((_leaves_zero(self.base) or 0) + AFTER, LONGEST)
        self.epochs, self.seeds = _slider("epochs to train", epochs, 1, LONGEST), _slider("seeds", 1, 1, 8)
        self.epochs.layout.width = self.seeds.layout.width = "26em"
        self.train = self.button("train", "train with these schedules", self._begin, button_style="primary")
        self.stop = self.button("stop", "finish this epoch and keep the training", self._end, disabled=True)
        self.preview, self.note, self.dashboard_box = widgets.HTML(), widgets.HTML(), widgets.VBox()
        self.openers, self.explorer_box = row(), widgets.VBox()
        controls = [
            self.mode, self.warmup, self.ramp, self.end, *self.rho_and_tau.values(), self.lr_first, self.lr_second,
            self.lr_at,
        ]
        layout = widgets.Layout(grid_template_columns="repeat(auto-fill, minmax(28em, 1fr))")
        self.fill(
            widgets.GridBox(controls, layout=layout), self.preview,
            row(self.epochs, self.seeds, self.train, self.stop), self.note, self.dashboard_box, self.openers,
            self.explorer_box,
        )
        self.on_change(self.show, *controls, self.epochs)
        self.guard(self.show)()

    def _make_controls(self) -> None:
        config, beta, tau = self.base, self.base.beta.B, self.base.temperature
        self.mode = widgets.Dropdown(
            options=MODES, value=beta.mode if beta.mode in MODES.values() else next(iter(MODES.values())),
            description="β_B", style={"description_width": LABEL}, layout=widgets.Layout(width="auto"),
        )
        warmup = getattr(beta, "warmup_epochs", getattr(beta, "at_epoch", 50))
        self.warmup = _slider("β_B warm-up, epochs", warmup, 1, 200)
        self.ramp = _slider("β_B ramp, epochs", getattr(beta, "ramp_epochs", 0), 0, 100)
        self.end = _slider("β_B end", getattr(beta, "end", 0.5), 0, 2, 0.05)
        self.rho_and_tau = {
            "rho.isolated": _slider("ρ isolated", config.rho.isolated, 0, 1, 0.05),
            "rho.consolidated": _slider("ρ consolidated", config.rho.consolidated, 0, 1, 0.05),
            "rho.coupled": _slider("ρ coupled", config.rho.coupled, 0, 1, 0.05),
            "temperature.A.start": _slider("τ_A start", tau.A.start, 0.1, 2, 0.05),
            "temperature.A.end": _slider("τ_A end", tau.A.end, 0.1, 2, 0.05),
            "temperature.B.start": _slider("τ_B start", tau.B.start, 0.1, 2, 0.05),
            "temperature.B.end": _slider("τ_B end", tau.B.end, 0.1, 2, 0.05),
        }
        """The sliders of ρ and τ, by the key of the setting in the configuration."""
        steps = config.optimiser.lr_steps
        (_, first), (at, second), *_ = [*sorted(steps.items()), (50, steps[0])]
        self.lr_first = _slider("log10 lr, first", math.log10(first), -5, -2, 0.05)
        self.lr_second = _slider("log10 lr, then", math.log10(second), -5, -2, 0.05)
        self.lr_at = _slider("lr step at epoch", at, 1, 200)

    @property
    def config(self) -> Config:
        """Configuration that the controls describe. Raises ConfigError if it is invalid."""
        warmup, ramp, end = self.warmup.value, self.ramp.value, self.end.value
        beta = {"mode": self.mode.value} | {
            "lagged_after_warmup": {"warmup_epochs": warmup, "ramp_epochs": ramp},
            "linear_warmup": {"warmup_epochs": warmup, "end": end},
            "jump": {"at_epoch": warmup, "ramp_epochs": ramp, "end": end},
            "constant": {"value": end},
            "off": {},
        }[self.mode.value]
        return load_config(self.base.as_dict(), {
            "beta.B": beta, **{key: slider.value for key, slider in self.rho_and_tau.items()},
            "optimiser.lr_steps": {0: 10**self.lr_first.value, self.lr_at.value: 10**self.lr_second.value},
            "training.total_epochs": self.epochs.value,
        })

    @property
    def run_dir(self) -> Path:
        """Directory of a training with these settings.

        The name of the directory consists of a checksum of the settings and the number of epochs.
        """
        settings = json.dumps(self.config.as_dict() | {"training": None}, sort_keys=True, default=str)
        return self.folder / f"{hashlib.sha256(settings.encode()).hexdigest()[:10]}-{self.epochs.value}"

    def show(self) -> None:
        """Enable the controls that the mode of β_B uses, and draw the schedules."""
        mode = self.mode.value
        self.warmup.disabled = mode in ("constant", "off")
        self.ramp.disabled = mode not in ("lagged_after_warmup", "jump")
        self.end.disabled = mode in ("lagged_after_warmup", "off")
        config, start = self.config, _leaves_zero(self.config)
        late = start is not None and start >= self.epochs.value
        self.note.value = f"β_B leaves 0 at epoch {start}, after the last epoch to train" if late else ""
        drawing = draw_schedules(config)
        self.preview.value = image(drawing.figure, drawing.alt, dpi=90)

    def _begin(self) -> None:
        if self._training is not None and self._training.is_alive():
            raise ConfigError("a training is running: stop it first")
        config, run_dir, seeds = self.config, self.run_dir, list(range(FIRST_SEED, FIRST_SEED + self.seeds.value))
        if self.dashboard is not None:
            self.dashboard.end()
        self._stop.clear()
        self.train.disabled, self.stop.disabled = True, False
        runs = f"{len(seeds)} run{'s' if len(seeds) > 1 else ''}"
        self.set_status(f"training {runs} in {short_path(run_dir)}: the first epoch takes a moment …")
        self._training = threading.Thread(
            target=self._train, args=(config, run_dir, seeds), daemon=True, name=f"train {run_dir}"
        )
        self._training.start()

    def _train(self, config: Config, run_dir: Path, seeds: list[int]) -> None:
        def after_epoch() -> bool:
            self._follow(run_dir)
            return self._stop.is_set()

        try:
            runs = run_experiment(config, seeds, run_dir, stop=after_epoch)
            dashboard = self._follow(run_dir)
            dashboard.update()
            dashboard.end()
            self.openers.children = tuple(
                self.button(f"open seed {seed} in the explorer", "show what was trained", partial(self._explore, run))
                for seed, run in runs.items()
            )
            epochs, place = min(len(run.history) for run in runs.values()), short_path(run_dir)
            if all(run.stopped for run in runs.values()):
                self.set_status(f"finished after {epochs} epochs; kept in {place}")
            else:
                self.set_status(f'stopped after {epochs} epochs; kept in {place}: "train" continues from there')
        except Exception as error:
            self.set_status("")
            self.set_error(error)
        finally:
            self.train.disabled, self.stop.disabled = False, True

    def _follow(self, run_dir: Path) -> Dashboard:
        """Return the dashboard of a training. The first call, after the first epoch, makes and shows it."""
        if self.dashboard is None or self.dashboard.run_dir != run_dir:
            self.dashboard = Dashboard(run_dir, seconds=2 * SHORTEST)
            self.dashboard_box.children = (self.dashboard,)
            self.set_status(f"training in {short_path(run_dir)}")
        return self.dashboard

    def _explore(self, run: RunRecord) -> None:
        """Open a run in the explorer below the designer. The first call makes the explorer."""
        if self.explorer is None:
            self.explorer = Explorer(run)
            self.explorer_box.children = (self.explorer,)
        else:
            self.explorer.explore(run)

    def _end(self) -> None:
        self._stop.set()
        self.stop.disabled = True
        self.set_status("stopping: this epoch is finished and kept …")

    def picture(self) -> Drawing:
        return draw_schedules(self.config)


def _leaves_zero(config: Config) -> int | None:
    """Return the first of the epochs 0..`LONGEST` at which β_B is not 0, or None."""
    return next((epoch for epoch in range(LONGEST + 1) if config.betas(epoch)[1] > 0), None)


def _slider(name: str, value: float, low: float, high: float, step: float = 1) -> widgets.Widget:
    """Return a slider with a wide label. Its values are integers if the step is 1."""
    kind = widgets.IntSlider if step == 1 else widgets.FloatSlider
    return kind(
        value=value, min=low, max=high, step=step, description=name, style={"description_width": LABEL},
        layout=widgets.Layout(width="auto"),
    )
