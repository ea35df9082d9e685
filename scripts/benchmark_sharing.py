"""How fast a training step is alone and beside other busy processes, by how long threads spin while they wait.

    python scripts/benchmark_sharing.py
    python scripts/benchmark_sharing.py --busy 0 1 2 4 --rounds 9

A process for each setting trains the model of scripts/configs/verses_demo.yaml on random tokens, in turn, `--seconds`
at a time. The table has target tokens a second (median of the rounds) and the multiple of GNU's default, for as many
busy processes as `--busy` says. Threads that spin hold the cores that those they wait for need; threads that sleep at
once wake late. `hf-vanilla` lets them spin 30,000 times, unless GOMP_SPINCOUNT or OMP_WAIT_POLICY is set.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from paper.runs import markdown_table

from hf_vanilla.cli.streams import run_program

SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    **{f"spin {count:,}": {"GOMP_SPINCOUNT": str(count)} for count in (0, 2000, 10_000, 30_000)},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
BUSY = "import torch\ntorch.set_num_threads(1)\nmatrix = torch.randn(512, 512)\nwhile True: matrix @ matrix"


def train_by_turns() -> None:
    """Train for as many seconds as each line of the standard input says, and print target tokens a second."""
    import torch

    from hf_vanilla import VanillaConfig, VanillaForConditionalGeneration
    from hf_vanilla.environment import choose_precision, keep_freed_memory, use_onednn_for_float32

    keep_freed_memory()
    use_onednn_for_float32()
    config = VanillaConfig(vocab_size=4000, d_model=256, d_ff=1024, h=4, N=2)
    model = VanillaForConditionalGeneration(config).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    tokens = torch.randint(5, config.vocab_size, (60, 25))
    is_half = choose_precision("auto") == "bf16"

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            loss = model(input_ids=tokens, labels=tokens, output_logits=False, label_smoothing=0.1).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(3):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        start, updates = time.monotonic(), 0
        while time.monotonic() - start < float(line):
            step()
            updates += 1
        print(updates * tokens.numel() / (time.monotonic() - start), flush=True)


@contextlib.contextmanager
def started(code: list[str], **variables: str) -> Iterator[subprocess.Popen]:
    """Start a process of Python with these variables beside ours, and end it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen([sys.executable, *code], env=environment | variables, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def main() -> None:
    """Measure all settings in turn, alone and beside busy processes, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="busy processes (default: 0 1 2)")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each setting (default: 9)")
    parser.add_argument("--seconds", type=float, default=1.5, help="of a turn (default: 1.5)")
    options = parser.parse_args()
    if min(options.rounds, options.seconds) <= 0 or min(options.busy) < 0:
        parser.error("--rounds and --seconds must be positive, and --busy 0 or more")
    with contextlib.ExitStack() as stack:
        trained = {
            name: stack.enter_context(started([__file__, "--train"], **variables))
            for name, variables in SETTINGS.items()
        }
        for name, process in trained.items():
            if "ready" not in (process.stdout.readline() if process.stdout else ""):
                sys.exit(f"the process of the setting {name!r} ended before it trained")
        rows = {name: [name] for name in SETTINGS}
        for count in options.busy:
            with contextlib.ExitStack() as others:
                for _ in range(count):
                    others.enter_context(started(["-c", BUSY]))
                time.sleep(5 if count else 0)
                speeds = measure(trained, options.rounds, options.seconds)
            for name, measured in speeds.items():
                ratio = statistics.median(own / base for own, base in zip(measured, speeds["default"], strict=True))
                rows[name].append(f"{statistics.median(measured):,.0f} ({ratio:.2f})")
    print(markdown_table(["", *(f"beside {count}" if count else "alone" for count in options.busy)], rows.values()))


def measure(processes: dict[str, subprocess.Popen], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Return the target tokens a second of each process, turn by turn."""
    speeds: dict[str, list[float]] = {name: [] for name in processes}
    for _ in range(rounds):
        for name, process in processes.items():
            print(seconds, file=process.stdin, flush=True)
            speeds[name].append(float(process.stdout.readline()))
    return speeds


if __name__ == "__main__":
    run_program(train_by_turns if sys.argv[1:] == ["--train"] else main)
