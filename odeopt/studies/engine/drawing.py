"""One plotting style: panels as SVG whose ink is the page's own. Uses matplotlib."""

import dataclasses
import io
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

INK = "#010203"
"""Stands for the colour of the page's text, whether that is dark or light."""
# After Okabe and Ito: what is too pale for lines on white, or too dark on black, is moved there.
COLOURS = (INK, "#BF8600", "#3793C8", "#009E73", "#D55E00", "#CC79A7", "#8A6FD1")
MARKERS = "os^DvPX"
DASHES = ("-", "--", ":")
FAMILY = (
    *("sgd", "momentum", "adam", "heun", "ssprk3", "rk4", "tsit5"),
    *("lbfgs", "nesterov", "adamw", "bosh3", "dopri5", "rkc", "linearly_implicit_euler"),
    *("log_time_adam", "heavy_ball", "rmsprop", "midpoint", "ralston", "rk_momentum", "rk_adam"),
)
"""Optimizers with a colour and a marker of their own in every figure of every study."""
_RC: Any = {
    "font.size": 10, "axes.titlesize": 10, "axes.grid": True, "grid.alpha": 0.2,
    "grid.color": INK, "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK,
    "xtick.color": INK, "ytick.color": INK, "svg.fonttype": "none", "svg.hashsalt": "odeopt",
    "axes.spines.top": False, "axes.spines.right": False, "lines.markersize": 4,
    "font.family": "sans-serif",
}  # fmt: skip


def styles_of(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and dash of each name: always those of `FAMILY`, others after them."""
    names = list(names)
    known = list(dict.fromkeys([*FAMILY, *names]))
    return {name: _style(known.index(name)) for name in names}


def _style(i: int) -> dict[str, Any]:
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
        "linestyle": DASHES[i // len(COLOURS) % len(DASHES)],
        "linewidth": 2.2 - 0.15 * (i % len(COLOURS)),  # thinner lines lie on thicker ones
    }


@dataclasses.dataclass
class Plot:
    """A figure: panels that a page sets side by side, or below each other where it is narrow.

    Width and height are a panel's, in inches; the legend begins with `names`.
    """

    names: Sequence[str] = ()
    width: float = 4.2
    height: float = 2.8

    def __post_init__(self) -> None:
        self._styles = styles_of(self.names)
        self._panels: dict[str, tuple[Canvas, Axes]] = {}
        self._keys: dict[str, dict[str, Any]] = {}
        self._used: set[str] = set()

    def __bool__(self) -> bool:
        """Whether there is anything to see."""
        return bool(self._panels)

    def style(self, name: str, **changes: Any) -> dict[str, Any]:
        """Keyword arguments of matplotlib's `plot` for that name, which the legend then shows."""
        if name not in self._styles:
            self._styles = styles_of([*self._styles, name])
        self._used.add(name)
        return {**self._styles[name], **changes}

    def key(self, label: str, **style: Any) -> None:
        """A further entry of the legend."""
        self._keys[label] = {"color": INK, "linestyle": "", "marker": "", **style}

    def panel(self, title: str, x: str, y: str, rows: int = 0) -> Axes:
        """The axes of that title. With `rows`, a strip of so many lines lies above: `strip`."""
        if title not in self._panels:
            with matplotlib.rc_context(_RC):
                tall = 0.12 * rows + (0.1 if rows else 0)
                canvas = Canvas(figsize=(self.width, self.height + tall), layout="constrained")
                if rows:
                    grid = {"height_ratios": [tall, self.height], "hspace": 0.02}
                    strip, axes = canvas.subplots(2, 1, sharex=True, gridspec_kw=grid)
                    strip.set(ylim=(rows - 0.5, -0.5), yticks=[])
                    strip.tick_params(bottom=False, labelbottom=False)
                    strip.grid(visible=False)
                    strip.spines["bottom"].set_alpha(0.3)
                else:
                    axes = canvas.add_subplot()
                axes.set(xlabel=x, ylabel=y)
                canvas.axes[0].set_title(title)
            self._panels[title] = canvas, axes
        return self._panels[title][1]

    def strip(self, title: str) -> Axes:
        """The strip above a panel that was made with `rows`: for what has no value, as crosses."""
        return self._panels[title][0].axes[0]

    def line(
        self,
        title: str,
        name: str,
        x: Any,
        y: Any,
        labels: tuple[str, str] = ("", ""),
        *,
        log: str = "",
        band: tuple[Any, Any] | None = None,
        **changes: Any,
    ) -> Axes:
        """The line of a name in the panel of that title, whose axes have these labels.

        Logarithmic axes are `log`: "", "x", "y" or "xy"; `band` is the lowest and highest values of
        the range around the line. It has about six markers unless `changes` of its style say else.
        """
        axes = self.panel(title, *labels)
        axes.set(**{f"{axis}scale": "log" for axis in log})
        style = self.style(name, **{"markevery": max(1, len(x) // 6), **changes})
        axes.plot(x, y, **style)
        if band is not None:
            axes.fill_between(x, *band, color=style["color"], alpha=0.15, lw=0)
        return axes

    def rows(self, title: str, label: str, names: Sequence[str]) -> Axes:
        """A panel with a row a name, the first one on top."""
        axes = self.panel(title, label, "")
        axes.set(ylim=(len(names) - 0.5, -0.5))
        axes.set_yticks(range(len(names)), names)
        return axes

    def svgs(self, name: str) -> dict[str, str]:
        """Every panel as the text of an SVG element, its ids beginning with `name`."""
        panels = enumerate(self._panels.items())
        return {title: _svg(canvas, f"{name}-{n}") for n, (title, (canvas, _)) in panels}

    def legend(self, name: str) -> list[tuple[str, str]]:
        """Labels and samples as SVG elements, in the order of `names`, then the keys."""
        entries = {n: s for n, s in self._styles.items() if n in self._used}
        found = []
        for number, (label, style) in enumerate({**entries, **self._keys}.items()):
            canvas = Canvas(figsize=(0.36, 0.2))
            canvas.add_artist(Line2D([0.05, 0.5, 0.95], [0.5] * 3, markevery=[1], **style))
            found.append((label, _svg(canvas, f"{name}-key-{number}")))
        return found


def _svg(canvas: Canvas, name: str) -> str:
    """A figure as an SVG element that takes its ink from the page, ids beginning with `name`."""
    text = io.StringIO()
    with matplotlib.rc_context(_RC):
        canvas.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    body = text.getvalue()
    body = body[body.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body)
    hidden = r'\1 aria-hidden="true" focusable="false"'
    body = re.sub(r'(<svg[^>]*?) width="[\d.]*pt"', hidden, body)
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px sans-serif", body)
    return body.replace(INK, "currentColor")


def log_limits(axes: Axes, values: Iterable[float]) -> None:
    """A log axis from round-off up."""
    found = np.array([v for v in values if v is not None and v > 0 and math.isfinite(v)])
    if not len(found):
        return
    low, high = np.log10(max(found.min(), 1e-16 * found.max())), np.log10(found.max())
    pad = max(0.05 * (high - low), 0.1)
    axes.set(yscale="log", ylim=(10 ** (low - pad), 10 ** (high + pad)))


def plain_log(axes: Axes, ticks: Sequence[float]) -> None:
    """A log axis over less than two decades, with ticks that can be read."""
    axes.set_xscale("log")
    axes.set_xticks(list(ticks), [f"{tick:.3g}" for tick in ticks])
    axes.set_xticks([], minor=True)
