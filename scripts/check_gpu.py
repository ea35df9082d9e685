"""Check and measure the package on one GPU, in less than 9 minutes; in miniature on a CPU, to try the script itself.

    python scripts/check_gpu.py runs/check_gpu                       # on a machine with a GPU
    python scripts/check_gpu.py runs/check_gpu --miniature           # on any machine, in a minute or two
    python scripts/check_gpu.py runs/check_gpu --only attention speed

It compares losses and gradients of every family and head with those of the CPU, in float32, bfloat16 and float16; so
with each attention that is installed, the compiled model, beams and `generate`; trains in half precision; names where
the host waits in a step; runs `accelerate launch` with each configuration on one device, fp16, and a run that resumes;
measures training steps and decoding beside peers. Half precision is held to limits that show breakage, not accuracy.

Each line is `ok`, `FAIL`, or a measurement (`num`). FOLDER/results.json holds all, FOLDER/results.md a table of them.
The exit status is 1 if anything failed. What does not fit into --seconds any more is skipped, and said so.
"""

import argparse
import contextlib
import importlib.util
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from peers import measuring, models
from safetensors.torch import load_file
from torch import Tensor
from transformers import BatchEncoding, PreTrainedModel

import hf_vanilla
from hf_vanilla import (
    RecurrentForConditionalGeneration,
    VanillaDecoderForCausalLM,
    VanillaEncoderForMaskedLM,
    VanillaForConditionalGeneration,
    beam_search,
)
from hf_vanilla.cli.streams import run_program
from hf_vanilla.environment import hardware
from hf_vanilla.models.static_generation_vanilla import StaticDecoder, make_decoder
from hf_vanilla.training.step import training_step

ROOT = Path(__file__).parents[1]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SECONDS = 520.0
LANGUAGE_MODELS = [VanillaForConditionalGeneration, VanillaEncoderForMaskedLM, VanillaDecoderForCausalLM]
HEADS = [
    *LANGUAGE_MODELS,
    hf_vanilla.VanillaEncoderForSequenceClassification,
    hf_vanilla.VanillaEncoderForTokenClassification,
    hf_vanilla.VanillaEncoderForQuestionAnswering,
    hf_vanilla.VanillaEncoderForMultipleChoice,
    hf_vanilla.VanillaDecoderForSequenceClassification,
    hf_vanilla.VanillaDecoderForTokenClassification,
]
RECURRENT = [("none", "lstm"), ("additive", "lstm"), ("additive", "gru"), ("dot", "lstm"), ("local", "lstm")]
ATTENTIONS = ("eager", "sdpa", "flex_attention", "flash_attention_2")
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
VOCABULARY, ROWS, LENGTH = 40, 4, 9
NEW_TOKENS = 12


@dataclass
class Result:
    """A line of the report."""

    name: str
    ok: bool | None  # None for a measurement
    text: str
    seconds: float  # since the start


class Report:
    """Prints and keeps results, and knows how much time is left."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.limit, self.start = folder, seconds, time.monotonic()
        self.results: list[Result] = []

    def elapsed(self) -> float:
        return time.monotonic() - self.start

    def has_time(self, seconds: float) -> bool:
        return self.elapsed() + seconds <= self.limit

    def note(self, name: str, ok: bool | None, text: str) -> None:
        self.results.append(Result(name, ok, text, round(self.elapsed(), 1)))
        kind = "num " if ok is None else "ok  " if ok else "FAIL"
        print(f"[{self.elapsed():5.0f} s] {kind} {name}: {text}", flush=True)

    @contextlib.contextmanager
    def catching(self, name: str) -> Iterator[None]:
        """Note as a failure whatever is raised."""
        try:
            yield
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            self.note(name, False, f"{type(error).__name__}: {lines[0][:200]}")
            traceback.print_exc(limit=-4, file=sys.stdout)

    def write(self) -> None:
        kinds = {None: "", True: "ok", False: "**FAIL**"}
        lines = [f"| {each.name} | {kinds[each.ok]} | {each.text.replace('|', '/')} |" for each in self.results]
        table = "\n".join([f"{hardware()}, torch {torch.__version__}", "", "| check | | |", "|---|---|---|", *lines])
        (self.folder / "results.md").write_text(table + "\n", encoding="utf-8")
        content = [asdict(each) for each in self.results]
        (self.folder / "results.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def to_device(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch with its tensors on the device."""
    return {name: each.to(DEVICE) if isinstance(each, Tensor) else each for name, each in batch.items()}


def synchronise() -> None:
    """Wait for a GPU."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def small(head: type[PreTrainedModel], **changes: Any) -> PreTrainedModel:
    """Return a model of two layers, 16 wide, without dropout, its weights drawn from one seed."""
    torch.manual_seed(0)
    fields: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 16, "dropout": 0.0, "initializer_range": 0.2}
    if head is not RecurrentForConditionalGeneration:
        fields |= {"intermediate_size": 24, "num_attention_heads": 4, "max_position_embeddings": 32}
        fields |= {"classifier_dropout": 0.0} if hasattr(head.config_class, "classifier_dropout") else {}
        fields |= {"encoder_layers": 2, "decoder_layers": 2} if head is VanillaForConditionalGeneration else {"N": 2}
    return head(head.config_class(**fields | changes))


def family_of(head: type[PreTrainedModel]) -> str:
    """Return what `peers.measuring` calls the inputs and labels of a head."""
    for part, family in {
        "Conditional": "seq2seq",
        "SequenceClass": "sequence_classification",
        "TokenClass": "token_classification",
        "Question": "question_answering",
        "Multiple": "multiple_choice",
        "Masked": "encoder",
    }.items():
        if part in head.__name__:
            return family
    return "decoder"


def batch_of(head: type[PreTrainedModel]) -> dict[str, Tensor]:
    """Return rows with padding, and labels."""
    torch.manual_seed(1)
    rows = measuring.CHOICES * ROWS if family_of(head) == "multiple_choice" else ROWS
    return dict(measuring.make_batch(family_of(head), rows, LENGTH, 0.2, VOCABULARY))


def known_batch(model: PreTrainedModel) -> dict[str, Any]:
    """Return pairs of unequal lengths, with what the loop's collator tells a model of them, on the device."""
    from hf_vanilla.data.collators import Counted, TranslationCollator

    tokenizer: Any = SimpleNamespace(pad_token_id=0, padding_side="right")
    rows = [torch.randint(3, VOCABULARY, (length,)).numpy() for length in (LENGTH, 5, 7, 3)]
    pairs = [{"input_ids": row, "labels": other} for row, other in zip(rows, rows[::-1], strict=True)]
    return to_device(dict(Counted(TranslationCollator(tokenizer, model), row_lengths=True)(pairs)))


def loss_and_gradients(
    model: PreTrainedModel, batch: dict[str, Any], half: torch.dtype | None = None
) -> tuple[Any, ...]:
    """Return the loss of a batch and the gradients of all parameters, on the CPU; with `half`, under autocast."""
    device = next(model.parameters()).device.type
    with torch.autocast(device, half) if half else contextlib.nullcontext():
        loss = model(**batch).loss
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return loss.detach().cpu(), [None if each is None else each.cpu() for each in gradients]


def relative_error(found: list[Tensor | None], expected: list[Tensor | None]) -> float:
    """Return the norm of the difference of gradients over that of those expected; infinity if one is missing."""
    if [own is None for own in found] != [wanted is None for wanted in expected]:
        return math.inf
    pairs = [
        (own, wanted) for own, wanted in zip(found, expected, strict=True) if own is not None and wanted is not None
    ]
    difference = sum((own - wanted).float().square().sum() for own, wanted in pairs)
    return float((difference / sum(wanted.square().sum() for _, wanted in pairs)).sqrt())


# Checks


def check_machine(report: Report, miniature: bool) -> None:
    """Say what the machine is, and what its products and its memory reach."""
    if DEVICE == "cuda":
        report.note("machine", None, f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
        buffer = torch.empty(2**31, dtype=torch.uint8, device=DEVICE)
        other = torch.empty_like(buffer)
        seconds = min(measuring.seconds_of(lambda: other.copy_(buffer)) for _ in range(5))
        report.note("memory", None, f"a copy reads and writes {2 * 2**31 / seconds / 1e12:.2f} TB/s")
    report.note("peak", None, f"bfloat16 products {measuring.measured_peak('bf16') / 1e3:.2f} TFLOP/s")
    for name in ("flash_attn", "deepspeed"):
        found = importlib.util.find_spec(name) is not None
        report.note(name, None, "installed" if found else "not installed: what needs it is skipped")


def check_families(report: Report, miniature: bool) -> None:
    """Compare the loss and the gradients of each head with those of the CPU in float32."""
    cases: list[tuple[type[PreTrainedModel], dict[str, str]]] = [(head, {}) for head in HEADS]
    kinds = RECURRENT[2:3] if miniature else RECURRENT  # a CPU has no LSTM in float16
    cases += [(RecurrentForConditionalGeneration, {"attention_type": a, "cell_type": c}) for a, c in kinds]
    for head, changes in cases:
        name = " ".join([f"gradients of {head.__name__}", *changes.values()])
        with report.catching(name):
            model, batch = small(head, **changes).train(), batch_of(head)
            expected, wanted = loss_and_gradients(model, batch, None)
            model.to(DEVICE)
            errors = {}
            for precision, half in {"fp32": None, **HALVES}.items():
                loss, gradients = loss_and_gradients(model, to_device(batch), half)
                of_loss, of_gradients = float((loss - expected).abs()), relative_error(gradients, wanted)
                errors[precision] = of_loss + of_gradients  # not a number if either is none
            ok = errors["fp32"] < 1e-4 and errors["bf16"] < 0.25 and errors["fp16"] < 0.25
            report.note(name, ok, ", ".join(f"{precision} {error:.1e}" for precision, error in errors.items()))


def check_half_training(report: Report, miniature: bool) -> None:
    """Train some updates in half precision: losses stay finite, and fall."""
    updates = 20 if miniature else 60
    for precision, half in HALVES.items():
        for head in (*LANGUAGE_MODELS, RecurrentForConditionalGeneration):
            name = f"training {head.__name__} {precision}"
            with report.catching(name):
                changes: dict[str, Any] = {"dropout": 0.1}
                if head is RecurrentForConditionalGeneration and DEVICE == "cpu":
                    changes["cell_type"] = "gru"  # a CPU has no LSTM in float16
                model, batch = small(head, **changes).train().to(DEVICE), to_device(batch_of(head))
                optimizer = torch.optim.Adam(model.parameters(), 1e-2, fused=True)
                scaler = torch.amp.GradScaler(DEVICE, enabled=half == torch.float16 and DEVICE == "cuda")
                losses = []
                for _ in range(updates):
                    with torch.autocast(DEVICE, half):
                        loss = model(**batch, label_smoothing=0.1, output_logits=False).loss
                    scaler.scale(loss).backward()
                    scaler.step(optimizer)
                    scaler.update()
                    optimizer.zero_grad()
                    losses.append(loss.detach())
                every = torch.stack(losses).float().cpu()
                ok = bool(every.isfinite().all() and every[-1] < every[0] - 0.3)
                report.note(name, ok, f"loss {every[0]:.2f} to {every[-1]:.2f}")


def check_attention(report: Report, miniature: bool) -> None:
    """Compare each implementation of attention with the eager one, with padding and with packed documents."""
    for head in LANGUAGE_MODELS:
        batches = {"padded": to_device(batch_of(head))}
        if head is not VanillaForConditionalGeneration:
            packed = {"input_ids": batches["padded"]["input_ids"], "labels": batches["padded"]["labels"]}
            batches["packed"] = packed | {"position_ids": torch.arange(LENGTH, device=DEVICE).expand(ROWS, -1) % 4}
        for kind, batch in batches.items():
            expected, seen = None, batch["labels"] != -100
            for attention in ATTENTIONS:
                name = f"{attention}, {kind}, {head.__name__}"
                if attention.startswith("flash") and (miniature or not importlib.util.find_spec("flash_attn")):
                    continue
                if attention.startswith("flex") and miniature:
                    continue
                with report.catching(name):
                    changes = {"hidden_size": 64, "intermediate_size": 64, "attn_implementation": attention}
                    dtype = torch.bfloat16 if attention.startswith("flash") else torch.float32
                    model = small(head, **changes).to(DEVICE, dtype).eval()
                    with torch.no_grad():
                        logits = model(**batch).logits.float()
                    if expected is None:
                        expected = logits
                    error = float((logits - expected)[seen].abs().max() / expected.abs().max())
                    report.note(name, error < (3e-2 if dtype == torch.bfloat16 else 1e-4), f"{error:.1e} from eager")


def check_unpadded(report: Report, miniature: bool) -> None:
    """Compare a step that knows the lengths of rows, and leaves padding out of all but attention, with one that does
    not; both under autocast."""
    from hf_vanilla.models import unpadding_vanilla

    changes = {"hidden_size": 64, "intermediate_size": 64}
    model = small(VanillaForConditionalGeneration, **changes).train().to(DEVICE)
    batch = known_batch(model)
    batch |= {"output_logits": False, "num_items_in_batch": batch.pop("counts")["tokens"]}
    padded = {name: each for name, each in batch.items() if name != "row_lengths"}
    for precision, half in HALVES.items():
        with report.catching(f"without padding {precision}"):
            (loss, found), (expected, wanted) = (loss_and_gradients(model, each, half) for each in (batch, padded))
            with torch.autocast(DEVICE, half):
                has_kernel = unpadding_vanilla.takes_segments(model.config, model.lm_head.weight)
            error = float((loss - expected).abs()) + relative_error(found, wanted)
            kernel = "by a kernel" if has_kernel else "without a kernel for it"
            report.note(f"without padding {precision}", error < 0.1, f"{error:.1e} from padded rows, {kernel}")


def check_beams(report: Report, miniature: bool) -> None:
    """Search on the device and on the CPU: the same tokens."""
    for head in (VanillaForConditionalGeneration, VanillaDecoderForCausalLM, RecurrentForConditionalGeneration):
        model, batch = small(head, initializer_range=0.5).eval(), batch_of(head)
        inputs = {"input_ids": batch["input_ids"][:, :5].clamp(min=3)}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        options = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
        expected = {n: model.generate(**inputs, num_beams=n, **options, custom_generate=beam_search) for n in (1, 4)}
        model.to(DEVICE)
        for beams, wanted in expected.items():
            with report.catching(f"beam {beams} {head.__name__}"):
                given = to_device(inputs)
                own = {"custom_generate": beam_search, "num_beams": beams, **options}
                found = model.generate(**given, **own).cpu()
                report.note(f"beam {beams} {head.__name__}", torch.equal(found, wanted), "as on the CPU")
            with report.catching(f"static beam {beams} {head.__name__}"):
                is_recurrent = head is RecurrentForConditionalGeneration
                decoder = make_decoder(model) if is_recurrent else StaticDecoder(model)
                again = [model.generate(**given, **own, incremental_decoder=decoder).cpu() for _ in range(2)]
                same = all(torch.equal(each, wanted) for each in again)
                report.note(
                    f"static beam {beams} {head.__name__}", same, f"as on the CPU, by {type(decoder).__name__}"
                )
        with report.catching(f"generate {head.__name__}"):
            found = model.generate(**to_device(inputs), num_beams=1, **options).cpu()
            report.note(f"generate {head.__name__}", torch.equal(found, expected[1]), "as greedy search on the CPU")


def check_waits(report: Report, miniature: bool) -> None:
    """Name the places where the host waits in a training step, of batches as the loop makes them."""
    model = small(VanillaForConditionalGeneration, hidden_size=64).train().to(DEVICE)
    batch = known_batch(model)
    tokens = batch.pop("counts")["tokens"]
    accelerator = Accelerator()
    model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), fused=True))
    task: Any = SimpleNamespace(config=SimpleNamespace(max_grad_norm=1.0))
    task.loss = lambda model, batch, tokens: model(**batch, num_items_in_batch=tokens, output_logits=False).loss

    def step() -> None:
        training_step(task, model, optimizer, accelerator, [BatchEncoding(batch)], tokens)

    step()
    seen: list[str] = []
    if DEVICE == "cuda":
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        seen = [f"{Path(each.filename).name}:{each.lineno}" for each in caught if "synchroni" in str(each.message)]
    report.note("waits in a step", not seen, "; ".join(seen) or "none")


def check_compile(report: Report, miniature: bool) -> None:
    """Compile each language model, and compare its loss."""
    if miniature:
        report.note("compile", None, "left out of the miniature: it takes minutes on a CPU")
        return
    for head in LANGUAGE_MODELS:
        with report.catching(f"compile {head.__name__}"):
            model, batch = small(head, hidden_size=64).train().to(DEVICE), to_device(batch_of(head))
            expected, start = model(**batch).loss, time.monotonic()
            model.compile(dynamic=True)
            loss = model(**batch).loss
            loss.backward()
            synchronise()
            error = abs(float(loss - expected))
            report.note(f"compile {head.__name__}", error < 1e-3, f"{error:.1e} off, {time.monotonic() - start:.0f} s")
            torch._dynamo.reset()


def write_corpus(path: Path) -> None:
    """Write 3,000 pairs: words, and the same in capitals, backwards."""
    drawn, words = random.Random(0), [f"w{number}" for number in range(300)]
    with path.open("w", encoding="utf-8") as file:
        for _ in range(3000):
            source = drawn.choices(words, k=drawn.randint(3, 20))
            row = {"source": " ".join(source), "target": " ".join(word.upper() for word in reversed(source))}
            print(json.dumps(row), file=file)


def finish(processes: dict[str, subprocess.Popen[bytes]]) -> dict[str, int]:
    """Wait for processes, and return their exit codes; those that take too long are ended."""
    limit, codes = time.monotonic() + 240, {}
    for name, process in processes.items():
        try:
            codes[name] = process.wait(timeout=max(1, limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            codes[name] = process.wait()
    return codes


def check_launches(report: Report, miniature: bool) -> None:
    """Train by the loop: plain, in fp16, resumed, and through `accelerate launch` with each of its configurations."""
    work = report.folder / "launches"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_corpus(work / "corpus.jsonl")
    fields = {"corpus": str(work / "corpus.jsonl"), "max_length": 64, "vocab_size": 500, "hidden_size": 64, "N": 2}
    fields |= {"intermediate_size": 128, "num_attention_heads": 4, "batch_tokens": 2000, "warmup_steps": 10}
    fields |= {"average_every": 10, "average_last": 2, "checkpoint_every": 10, "evaluations": 2, "log_every": 5}
    options = [part for name, value in fields.items() for part in (f"--{name}", str(value))]
    (work / "run.yaml").write_text("output_dir: runs/unused\nmax_steps: 20\nbleu_sentences: 4\n", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}

    def start(name: str, launcher: list[str], *more: str) -> subprocess.Popen[bytes]:
        script = [str(ROOT / "scripts" / "train_translation.py"), str(work / "run.yaml")]
        own = ["--output_dir", str(work / name), *options, *more]
        output = (work / f"{name}.txt").open("ab")
        return subprocess.Popen(
            [sys.executable, *launcher, *script, *own], env=environment, stdout=output, stderr=output
        )

    def launcher(name: str, port: int) -> list[str]:
        config = ROOT / "scripts" / "accelerate_configs" / f"{name}.yaml"
        own = ["--config_file", str(config), "--num_processes", "1", "--main_process_port", str(port)]
        return ["-m", "accelerate.commands.launch", *own]

    waiting = {"plain": start("plain", []), "resumed": start("resumed", [], "--max_steps", "10", "--schedule", "noam")}
    if DEVICE == "cuda":
        waiting |= {"fp16": start("fp16", [], "--mixed_precision", "fp16")}
        waiting |= {"compiled": start("compiled", [], "--compile", "true", "--dropout", "0")}
        kinds = ["ddp", "fsdp2"]
        kinds += ["deepspeed_zero2", "deepspeed_zero3"] if importlib.util.find_spec("deepspeed") else []
        waiting |= {name: start(name, launcher(name, 29611 + n)) for n, name in enumerate(kinds)}
    codes = {"interrupted" if name == "resumed" else name: code for name, code in finish(waiting).items()}
    codes |= finish({name: start(name, [], "--schedule", "noam") for name in ("resumed", "whole")})
    for name, code in codes.items():
        folder = "resumed" if name == "interrupted" else name
        log, printed = work / folder / "log.jsonl", (work / f"{folder}.txt").read_text(errors="replace")
        last = log.read_text().splitlines()[-1][:150] if log.exists() else ""
        report.note(f"launch {name}", code == 0, last if code == 0 else printed[-300:].replace("\n", " "))
    with report.catching("a resumed run"):
        own, whole = (load_file(work / name / "model.safetensors") for name in ("resumed", "whole"))
        error = max(float((own[name] - whole[name]).abs().max()) for name in whole)
        went_on = "going on after update 10" in (work / "resumed.txt").read_text(errors="replace")
        text = f"its weights differ from those of a whole run by {error:.1e}"
        report.note("a resumed run", went_on and error == 0, text if went_on else "it began anew")


# Measurements


def check_speed(report: Report, miniature: bool) -> None:
    """Time training steps in bfloat16 beside Marian and `nn.Transformer`, 25,000 tokens a side. Ours know what the
    loop's batches tell them."""
    from hf_vanilla.data.collators import Counted

    sizes = ["small"] if miniature else ["base", "big"]
    peak = measuring.measured_peak("bf16")
    for size in sizes:
        shape = models.SIZES[size]
        rows, length = (8, 8) if miniature else (833, 30)
        batch = measuring.make_batch("seq2seq", rows, length, 0.05, shape.vocabulary)
        known = dict(Counted(lambda _, own=batch: BatchEncoding(own), row_lengths=True)(()))  # type: ignore[misc]
        batch, known = to_device(batch), to_device({name: each for name, each in known.items() if name != "counts"})
        tokens = measuring.counted_tokens(batch, "seq2seq")
        products = measuring.needed_products(batch, "seq2seq", shape)
        for name in ("hf_vanilla", "Marian", "nn.Transformer"):
            if not report.has_time(60):
                report.note(f"step {size} {name}", None, "skipped: no time")
                continue
            with report.catching(f"step {size} {name}"):
                runner = measuring.Runner(models.FAMILIES["seq2seq"][name], shape, is_half=True)
                own = known if name == "hf_vanilla" else batch
                for _ in range(1 if miniature else 3):
                    runner.step(own)
                seconds = statistics.median(runner.step(own) for _ in range(2 if miniature else 9))
                text = f"{1e3 * seconds:.1f} ms, {tokens / seconds:,.0f} tokens/s, "
                text += f"{products / seconds / peak:.0%} of the measured peak"
                if DEVICE == "cuda":
                    text += f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
                report.note(f"step {size} {name}", None, text)
                del runner
                if DEVICE == "cuda":
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()


def check_decoding_speed(report: Report, miniature: bool) -> None:
    """Time beam search beside `generate` of Marian, in tokens a second."""
    from transformers import AutoModelForSeq2SeqLM

    size = "small" if miniature else "base"
    shape, tokens = models.SIZES[size], {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = hf_vanilla.VanillaConfig(
        vocab_size=shape.vocabulary,
        d_model=shape.width,
        d_ff=shape.inner,
        h=shape.heads,
        N=shape.layers,
        **tokens,
        decoder_start_token_id=1,
    )
    torch.manual_seed(0)
    ours = VanillaForConditionalGeneration(config).eval().to(DEVICE)
    marian = AutoModelForSeq2SeqLM.from_config(models.configure("marian", shape)).eval().to(DEVICE)
    new = 4 if miniature else 40
    points = [(2, 4)] if miniature else [(1, 4), (32, 4), (128, 4), (128, 1)]
    for half in [torch.bfloat16] if miniature else [torch.float32, torch.bfloat16]:
        ours.to(half)
        marian.to(half)
        decoder = make_decoder(ours)
        for rows, beams in points:
            if not report.has_time(20):
                report.note(f"decoding {rows} x {beams}", None, "skipped: no time")
                return
            ids = torch.randint(5, shape.vocabulary, (rows, 32), device=DEVICE)
            options: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "num_beams": beams, "do_sample": False}
            options |= {"min_new_tokens": new, "max_new_tokens": new}
            own = options | {"custom_generate": beam_search, "incremental_decoder": decoder, "eos_token_id": None}
            del own["min_new_tokens"]
            runs: dict[str, Callable[[], object]] = {
                "hf_vanilla": lambda ids=ids, own=own: ours.generate(ids, **own),
                "Marian": lambda ids=ids, options=options: marian.generate(ids, **options),
            }
            name, speeds = f"decoding {str(half)[6:]} {rows} x beam {beams}", {}
            with report.catching(name), torch.inference_mode():
                for system, run in runs.items():
                    run()
                    speeds[system] = rows * new / min(measuring.seconds_of(run) for _ in range(2))
                ratio = speeds["hf_vanilla"] / speeds["Marian"]
                each = ", ".join(f"{system} {speed:,.0f} tokens/s" for system, speed in speeds.items())
                report.note(name, None, f"{each}: {ratio:.1f} times as fast")


CHECKS: dict[str, tuple[float, Callable[[Report, bool], None]]] = {
    "machine": (0, check_machine),
    "families": (20, check_families),
    "training": (15, check_half_training),
    "attention": (40, check_attention),
    "unpadded": (5, check_unpadded),
    "beams": (10, check_beams),
    "waits": (3, check_waits),
    "speed": (100, check_speed),
    "launches": (150, check_launches),
    "decoding": (30, check_decoding_speed),
    "compile": (60, check_compile),
}
"""Each section: the seconds that it may take, and what it does."""


def main() -> None:
    """Run the sections that there is time for, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the report, and what the checks write")
    parser.add_argument("--miniature", action="store_true", help="small sizes, and without a GPU, too")
    parser.add_argument(
        "--only", nargs="+", choices=CHECKS, default=list(CHECKS), help="sections to run (default: all)"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"time limit (default: {SECONDS:g})")
    options = parser.parse_args()
    if DEVICE == "cpu" and not options.miniature:
        parser.error("there is no GPU here. Give --miniature to try the script itself on a CPU")
    options.folder.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore")
    report = Report(options.folder.resolve(), options.seconds)
    for name in dict.fromkeys(options.only):
        needed, check = CHECKS[name]
        if not report.has_time(needed):
            report.note(name, None, "skipped: no time")
            continue
        with report.catching(name):
            check(report, options.miniature)
    report.write()
    failed = [each.name for each in report.results if each.ok is False]
    print(f"\n{len(report.results)} lines in {report.elapsed():.0f} s; failed: {'; '.join(failed) or 'nothing'}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    run_program(main)
