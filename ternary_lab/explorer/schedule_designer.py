"""Schedules by slider: the curves at once, and a short training under them, live."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from pathlib import Path

import ipywidgets as widgets
from matplotlib.figure import Figure

from ternary_lab.config import Config
from ternary_lab.config_files import load_config
from ternary_lab.errors import ConfigError
from ternary_lab.explorer.live_training import SHORTEST, Dashboard
from ternary_lab.explorer.widget_base import Part, button, row
from ternary_lab.figures.save import image
from ternary_lab.figures.style import GREEN, INK, PATHWAY, figure_of, fixed, panels, plain, style
from ternary_lab.runs.train import run_experiment

SHOWN = 120
"""Epochs that the preview shows at least."""
MODES = {
    "lagged (v5.5: a jump)": "lagged_after_warmup", "linear warm-up": "linear_warmup", "jump": "jump",
    "constant": "constant", "off": "off",
}


class ScheduleDesigner(Part):
    """β_B's mode and warm-up, ρ, τ and the steps of the learning rate; train a cohort of a few seeds with them.

    Trainings lie in `folder`, in a directory named after their settings: training the same again goes on where it
    stopped. Stopping finishes the epoch under way and keeps it.
    """

    title = "Schedule designer"

    def __init__(self, base: Config | str = "v5_5", folder: str | Path = "../runs/designed") -> None:
        super().__init__()
        self.base = load_config(base) if isinstance(base, str) else base
        self.folder = Path(folder)
        self._stop = threading.Event()
        self._training: threading.Thread | None = None
        self.dashboard: Dashboard | None = None
        c, b = self.base, self.base.beta.B
        self.mode = widgets.Dropdown(
            options=MODES, value=b.mode if b.mode in MODES.values() else next(iter(MODES.values())), description="β_B",
            style={"description_width": "10em"}, layout=widgets.Layout(width="auto"),
        )
        self.warmup = self._whole("β_B warm-up (epochs)", getattr(b, "warmup_epochs", 50), 1, 200)
        self.ramp = self._whole("β_B ramp (epochs)", getattr(b, "ramp_epochs", 0), 0, 100)
        self.end = self._number("β_B end", getattr(b, "end", 0.5), 0, 2, 0.05)
        self.rho = [
            self._number(f"ρ {name}", getattr(c.rho, name), 0, 1, 0.05)
            for name in ("isolated", "consolidated", "coupled")
        ]
        t = c.temperature
        self.tau = [
            self._number(name, value, 0.1, 2, 0.05)
            for name, value in (
                ("τ_A start", t.A.start), ("τ_A end", t.A.end), ("τ_B start", t.B.start), ("τ_B end", t.B.end)
            )
        ]
        (_, first), (at, second), *_ = [*sorted(c.optimiser.lr_steps.items()), (50, c.optimiser.lr_steps[0])]
        self.lr_first = self._number("log10 lr, first", math.log10(first), -5, -2, 0.05)
        self.lr_second = self._number("log10 lr, then", math.log10(second), -5, -2, 0.05)
        self.lr_at = self._whole("lr step at epoch", at, 1, 200)
        self.epochs = self._whole("epochs to train", 20, 1, 400)
        self.seeds = self._whole("seeds", 1, 1, 8)
        self.epochs.layout.width = self.seeds.layout.width = "26em"
        self.preview = widgets.HTML()
        self.train = button("train", "train a cohort with these schedules", button_style="primary")
        self.stop = button("stop", "finish this epoch, keep what was trained", disabled=True)
        self.place = widgets.VBox()
        self.controls = [
            self.mode, self.warmup, self.ramp, self.end, *self.rho, *self.tau,
            self.lr_first, self.lr_second, self.lr_at,
        ]
        grid = widgets.GridBox(
            self.controls, layout=widgets.Layout(grid_template_columns="repeat(auto-fill, minmax(28em, 1fr))")
        )
        self.fill(
            grid, self.preview,
            row(self.epochs, self.seeds, self.train, self.stop),
            self.place,
        )
        for control in (*self.controls, self.epochs):
            control.observe(self.guard(lambda _: self.show()), "value")
        self.train.on_click(self.guard(lambda _: self._begin()))
        self.stop.on_click(self.guard(lambda _: self._end()))
        self.guard(self.show)()

    @staticmethod
    def _whole(name: str, value: int, low: int, high: int) -> widgets.IntSlider:
        return widgets.IntSlider(
            value=value, min=low, max=high, description=name, style={"description_width": "10em"},
            layout=widgets.Layout(width="auto"),
        )

    @staticmethod
    def _number(name: str, value: float, low: float, high: float, step: float) -> widgets.FloatSlider:
        return widgets.FloatSlider(
            value=value, min=low, max=high, step=step, description=name, style={"description_width": "10em"},
            layout=widgets.Layout(width="auto"),
        )

    @property
    def config(self) -> Config:
        """The configuration that the controls describe. Raises ConfigError for one that is not allowed."""
        warmup, ramp, end = self.warmup.value, self.ramp.value, self.end.value
        beta = {"mode": self.mode.value} | {
            "lagged_after_warmup": {"warmup_epochs": warmup, "ramp_epochs": ramp},
            "linear_warmup": {"warmup_epochs": warmup, "end": end},
            "jump": {"at_epoch": warmup, "ramp_epochs": ramp, "end": end},
            "constant": {"value": end},
            "off": {},
        }[self.mode.value]
        isolated, consolidated, coupled = (slider.value for slider in self.rho)
        start_a, end_a, start_b, end_b = (slider.value for slider in self.tau)
        return load_config(self.base.as_dict(), {
            "beta.B": beta,
            "rho": {"isolated": isolated, "consolidated": consolidated, "coupled": coupled},
            "temperature.A.start": start_a, "temperature.A.end": end_a,
            "temperature.B.start": start_b, "temperature.B.end": end_b,
            "optimiser.lr_steps": {0: 10**self.lr_first.value, self.lr_at.value: 10**self.lr_second.value},
            "training.total_epochs": self.epochs.value,
        })

    @property
    def run_dir(self) -> Path:
        """Where a training with these settings lies; its length does not count."""
        settings = json.dumps(self.config.as_dict() | {"training": None}, sort_keys=True, default=str)
        return self.folder / f"{hashlib.sha256(settings.encode()).hexdigest()[:10]}-{self.epochs.value}"

    def show(self) -> None:
        """Preview the schedules."""
        mode = self.mode.value
        self.warmup.disabled = mode in ("constant", "off")
        self.ramp.disabled = mode not in ("lagged_after_warmup", "jump")
        self.end.disabled = mode in ("lagged_after_warmup", "off")
        self.preview.value = image(*draw_schedules(self.config), dpi=90)

    def _begin(self) -> None:
        if self._training is not None and self._training.is_alive():
            raise ConfigError("a training is under way: stop it first")
        config, place, seeds = self.config, self.run_dir, list(range(42, 42 + self.seeds.value))
        if self.dashboard is not None:
            self.dashboard.end()
        self._stop.clear()
        self.train.disabled, self.stop.disabled = True, False
        many = f"{len(seeds)} run{'s' if len(seeds) > 1 else ''}"
        self.say(f"training {many} in {place}: the first epoch takes a moment …")
        self._training = threading.Thread(
            target=self._train, args=(config, place, seeds), daemon=True, name=f"train {place}"
        )
        self._training.start()

    def _train(self, config: Config, place: Path, seeds: list[int]) -> None:
        def each_epoch() -> bool:
            self._follow(place)
            return self._stop.is_set()

        try:
            runs = run_experiment(config, seeds, place, stop=each_epoch)
            dashboard = self._follow(place)
            dashboard.look()
            dashboard.end()
            epochs = min(len(run.history) for run in runs.values())
            ended = all(run.stopped for run in runs.values())
            self.say(
                f"{'finished' if ended else 'stopped'} after {epochs} epochs; kept in {place}"
                + ("" if ended else ": train goes on from there")
            )
        except Exception as error:
            self.say("")
            self.fail(error)
        finally:
            self.train.disabled, self.stop.disabled = False, True

    def _follow(self, place: Path) -> Dashboard:
        """The dashboard of a training, shown from its first epoch on."""
        if self.dashboard is None or self.dashboard.run_dir != place:
            self.dashboard = Dashboard(place, seconds=2 * SHORTEST)
            self.place.children = (self.dashboard,)
            self.say(f"training in {place}")
        return self.dashboard

    def _end(self) -> None:
        self._stop.set()
        self.stop.disabled = True
        self.say("stopping: this epoch is finished and kept …")

    def wait(self) -> None:
        """Wait for the training under way, if there is one."""
        if self._training is not None:
            self._training.join()

    def picture(self) -> tuple[Figure, str]:
        return draw_schedules(self.config)


def draw_schedules(config: Config) -> tuple[Figure, str]:
    """β, τ, ρ and the learning rate by epoch, gradients taken as unbalanced; what is trained is shaded."""
    total = config.training.total_epochs
    epochs = list(range(max(SHOWN, total)))
    beta = [config.betas(e) for e in epochs]
    tau = [config.temperatures(e) for e in epochs]
    with style():
        axes = panels(1, 4, 2.1)
        figure = figure_of(axes[0])
        figure.set_size_inches(11, 2.1)
        fixed(figure, left=0.035, right=0.995, top=0.88, bottom=0.2, wspace=0.2)
        for axis, title, values in ((axes[0], "β (weight of KL)", beta), (axes[1], "τ (posterior noise)", tau)):
            for i, (pathway, line) in enumerate((("A", "-"), ("B", "--"))):
                axis.plot(epochs, [v[i] for v in values], color=PATHWAY[pathway], linestyle=line, label=pathway)
            axis.set_title(title)
            axis.legend()
        axes[2].plot(epochs, [config.permeability(e, False) for e in epochs], color=INK)
        axes[2].set_title("ρ (cross-injection)")
        axes[3].step(epochs, [config.lr(e) for e in epochs], where="post", color=INK)
        axes[3].set(title="learning rate", yscale="log")
        plain(axes[3])
        for axis in axes:
            axis.axvspan(0, total, color=GREEN, alpha=0.08, linewidth=0)
            axis.set_xlabel("epoch")
    last = total - 1
    return figure, (
        f"Schedules by epoch; the {total} epochs to train are shaded. At epoch {last}: β_A {beta[last][0]:.3g}, β_B "
        f"{beta[last][1]:.3g}, τ_A {tau[last][0]:.3g}, τ_B {tau[last][1]:.3g}, "
        f"ρ {config.permeability(last, False):.3g}, learning rate {config.lr(last):.3g}."
    )
