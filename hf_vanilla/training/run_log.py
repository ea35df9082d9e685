"""A run as its user sees it: progress bar, log, trackers and curves."""

import contextlib
import json
import logging
import resource
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

logger = logging.getLogger(__name__)

Record = dict[str, float]
"""A line of the log: `step`, and what was measured after that update."""

SHOWN = {
    "step": "update {:,}",
    "loss": "loss {:.3f}",
    "learning_rate": "learning rate {:.3g}",
    "tokens_per_second": "{:,.0f} tokens/s",
    "padding": "padding {:.1%}",
    "memory_gib": "{:.1f} GiB",
    "skipped_updates": "{:,} updates skipped by fp16",
    "validation_perplexity": "validation: perplexity {:.4g}",
    "bleu": "BLEU {:.1f}",
    "exact_match": "exact match {:.1f} %",
    "character_error_rate": "CER {:.1f} %",
    "token_error_rate": "token error rate {:.1f} %",
}
"""What the bar shows of a record, in this order, and how."""

DARK = dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor"), "#14171c")
"""The paper of curves for dark pages, which is that of the figures of attention."""


class RunLog:
    """A progress bar with ETA on the main process, `log.jsonl` in `folder`, and the trackers of the accelerator.

    A run that is resumed at update `after` keeps the lines up to it; `done` is the share of the run, in [0, 1].
    """

    def __init__(self, folder: Path, accelerator: Accelerator, after: int = 0, done: float = 0.0) -> None:
        self.accelerator, self.enabled = accelerator, accelerator.is_main_process
        self.records: list[Record] = []
        self.shown: Record = {}
        bar_format = "{percentage:3.0f}%|{bar:10}| {elapsed}<{remaining}{postfix}"
        interval = 1 if sys.stderr.isatty() else 10
        self.bar = tqdm(total=1.0, initial=done, disable=not self.enabled, bar_format=bar_format, mininterval=interval)
        if self.enabled:
            path = folder / "log.jsonl"
            self.records = read_records(path, after) if after else []
            rewritten = path.with_suffix(".tmp")
            rewritten.write_text("".join(f"{json.dumps(record)}\n" for record in self.records), encoding="utf-8")
            self.file = rewritten.replace(path).open("a", encoding="utf-8")

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        if self.enabled:
            self.bar.write(message, file=sys.stderr)

    @contextlib.contextmanager
    def going_on_after(self, problem: type[Exception]) -> Iterator[None]:
        """Print a warning if this problem is raised, and let the run go on."""
        try:
            yield
        except problem as error:
            self.say(f"warning: {error}; going on, and what was saved before is as it was")

    def advance(self, done: float) -> None:
        """Move the bar to the share `done` of the run."""
        self.bar.update(done - self.bar.n)

    def write(self, **record: float) -> None:
        """Append a line to `log.jsonl`, show it beside the bar, and report it to the trackers."""
        self.accelerator.log({name: value for name, value in record.items() if name != "step"}, step=record["step"])
        if self.enabled:
            self.records.append(record)
            with self.going_on_after(OSError):
                print(json.dumps(record), file=self.file, flush=True)
            self.shown.update(record)
            shown = [text.format(self.shown[name]) for name, text in SHOWN.items() if name in self.shown]
            self.bar.set_postfix_str(", ".join(shown), refresh=False)

    def close(self) -> None:
        self.bar.close()
        if self.enabled:
            self.file.close()


def memory_gib() -> float:
    """Return the peak memory of this process in GiB: that of the GPU if there is one, else its resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS, in KiB elsewhere
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def read_records(path: Path, last_step: int | None = None) -> list[Record]:
    """Return the records of a `log.jsonl`, up to an update if one is given. Lines that were cut off are left out."""
    records: list[Record] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return [record for record in records if last_step is None or record["step"] <= last_step]


def plot_curves(records: Sequence[Record], path: Path, theme: str = "light") -> None:
    """Draw losses, scores and learning rate of a log over its updates, if matplotlib is installed; `theme` "dark" is
    for dark pages."""
    try:
        from matplotlib import style
        from matplotlib.figure import Figure
    except ImportError:
        logger.warning("no %s: pip install matplotlib", path.name)
        return
    titles = {"loss": "nats per target token", "bleu": "BLEU", "exact_match": "exact match, %"}
    titles |= {
        "character_error_rate": "CER, %",
        "token_error_rate": "token errors, %",
        "learning_rate": "learning rate",
    }
    curves = {name: [(r["step"], r[name]) for r in records if name in r] for name in (*titles, "validation_loss")}
    panels = [name for name in titles if curves[name] or name == "loss"]
    with style.context(["dark_background", DARK] if theme == "dark" else []):
        figure = Figure(figsize=(7, 3 + 1.5 * (len(panels) - 1)), layout="constrained")
        ratios = [2.5] + [1.0] * (len(panels) - 1)
        all_axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=ratios, squeeze=False)[:, 0]
        for axes, name in zip(all_axes, panels, strict=True):
            if curves[name]:
                marker = "o" if name not in ("loss", "learning_rate") or len(curves[name]) == 1 else None
                axes.plot(*zip(*curves[name], strict=True), label="training", marker=marker, markersize=4)
            axes.set_ylabel(titles[name])
            axes.grid(alpha=0.3)
        if points := curves["validation_loss"]:
            label = "validation, labels not smoothed"
            all_axes[0].plot(*zip(*points, strict=True), label=label, marker="o", markersize=4)
        all_axes[0].legend()
        all_axes[-1].set_xlabel("update")
        figure.align_ylabels()
        figure.savefig(path, dpi=150)
