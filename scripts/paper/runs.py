"""Run the trainings of a table over seeds, each once, keep what each measured, and report all that are done."""

import json
import multiprocessing
import os
import statistics
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from hf_vanilla.training.config import TrainingConfig

Result = dict[str, Any]
Run = TypeVar("Run", bound=tuple)


def write_whole(path: Path, text: str) -> None:
    """Write a file that is either whole or not there, even if this is interrupted."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def add_run_options(parser: ArgumentParser, seeds: Sequence[int], side_by_side: bool = True) -> None:
    """Add `--seeds` and, for runs `side_by_side`, `--workers`, by default as many as this process has cores."""
    shown = " ".join(map(str, seeds))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(seeds), help=f"of the runs (default: {shown})")
    if side_by_side:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        said = "runs side by side, a thread each (default: cores)"
        parser.add_argument("--workers", type=int, default=cores, help=said)


@contextmanager
def saying_how_to_go_on() -> Iterator[None]:
    """End the program on Ctrl+C with a message that says that the same command goes on."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from there")


def side_by_side(
    measure: Callable[..., Result],
    runs: Iterable[Run],
    workers: int,
    report: Callable[[Run, Result | None, float], None],
) -> None:
    """Call `measure(*run)` for each run in a process of its own with one thread, `workers` at a time.

    When a run ends, `report` gets it, its result (None if it failed), and the minutes that the others will take. What
    stops this function stops the processes: they are sent SIGTERM, on which a training saves itself, and waited for.
    """
    todo, ended, start = list(runs), 0, time.monotonic()
    running: dict[Connection, tuple[BaseProcess, Run]] = {}
    spawn = multiprocessing.get_context("spawn")
    try:
        while todo or running:
            while todo and len(running) < workers:
                receiver, sender = spawn.Pipe(duplex=False)
                process = spawn.Process(target=_send_measured, args=(sender, measure, todo[0]))
                process.start()
                sender.close()  # or `receiver` would not learn of the process's end
                running[receiver] = (process, todo.pop(0))
            for receiver in wait(list(running)):
                process, run = running.pop(receiver)
                try:
                    result = receiver.recv()
                except EOFError:
                    result = None
                process.join()
                ended += 1
                report(run, result, (time.monotonic() - start) / ended * (len(todo) + len(running)) / 60)
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.join()


def _send_measured(sender: Connection, measure: Callable[..., Result], run: tuple) -> None:
    import torch

    torch.set_num_threads(1)
    sender.send(measure(*run))


def as_options(fields: dict[str, object]) -> list[str]:
    """Return the fields of a configuration as the options of a command line."""
    return [text for name, value in fields.items() for text in (f"--{name}", str(value))]


def train_here(config: "TrainingConfig") -> Result:
    """Train in this process, whatever it trained before, and return what is in the run's `training_summary.json`."""
    from accelerate.state import AcceleratorState

    from hf_vanilla.training.loop import train  # here, since processes that do without it start sooner
    from hf_vanilla.training.state import SUMMARY

    AcceleratorState._reset_state(reset_partial_state=True)
    return json.loads((train(config) / SUMMARY).read_text(encoding="utf-8"))


def pick(summary: Result, *names: str) -> Result:
    """Return the entries of a `training_summary.json` that tables report, and those that are named."""
    kept = ("updates", "epochs", "seconds", "target_tokens", "hardware", *names)
    return {"perplexity": summary["final"]["validation_perplexity"], **{name: summary[name] for name in kept}}


def read_results(folder: Path, separator: str = "-seed") -> dict[tuple[str, int], Result]:
    """Return what each NAME-seedN/result.json in a folder holds, or raise a ValueError if one is not whole."""
    results = {}
    for path in sorted(folder.glob(f"*{separator}*/result.json")):
        name, _, seed = path.parent.name.rpartition(separator)
        try:
            results[name, int(seed)] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not whole: delete it, and its run is made again") from error
    return results


def results_by_name(folder: Path, names: Iterable[str], separator: str = "-seed") -> dict[str, list[Result]]:
    """Return what the runs in a folder measured, by name, in the order of `names`, for names that have any."""
    results = read_results(folder, separator).items()
    by_name = {name: [result for (of, _), result in results if of == name] for name in names}
    return {name: own for name, own in by_name.items() if own}


def changes_since(earlier: Result, config: "TrainingConfig") -> list[str]:
    """Return a line for each field by which a run would differ from one with the fields `earlier`."""
    changes = config.changes(earlier)
    if earlier["max_steps"] != config.max_steps and not any(line.startswith("max_steps ") for line in changes):
        changes.append(f"max_steps was {earlier['max_steps']}, now {config.max_steps}")
    return changes


def publish(table: str, path: Path) -> None:
    """Write a table, print it, and say where it is."""
    path.write_text(f"{table}\n", encoding="utf-8")
    print(f"\n{table}\n\nwritten: {path}")


def over_seeds(results: Sequence[Result], name: str, digits: int = 1, scale: float = 1) -> str:
    """Return mean and, of several, standard deviation of what runs measured, times `scale`, such as "1.5 ± 0.2"."""
    values = [scale * result[name] for result in results]
    spread = f" ± {statistics.stdev(values):,.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):,.{digits}f}{spread}"


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown, in which cells that a row lacks at its end are empty."""
    lines = ["|" + "".join(f" {column} |" if column else " |" for column in columns), "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(row) + " |" * (1 + len(columns) - len(row)) for row in rows]
    return "\n".join(lines)
