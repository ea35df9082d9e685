"""Fine-tune ours and the in-tree model of the same size, on the same data, tokenizer, steps and seeds; print a table.

    python scripts/fetch_labelled_corpora.py
    python scripts/compare_finetuning.py runs/comparison                      # everything: hours on two cores
    python scripts/compare_finetuning.py runs/comparison --tasks sentiment tags --seeds 0 1 2 --scale 0.5
    python scripts/compare_finetuning.py runs/comparison --tasks sentiment --models minilm=runs/minilm bert=runs/bert
    python scripts/compare_finetuning.py runs/comparison --bf16 true --use_cpu true  # these go to each script

Encoders (BertFor... is the peer) start from new weights and from masked-LM pretraining on Brown and Bible prose,
decoders (GPT2LMHeadModel) from new weights; checkpoints that are given with `--models` start from their weights and
from new ones of their shape. Each run is a command of the fine-tuning scripts, written to FOLDER/RUN.command, its
output to FOLDER/RUN.log. What is done is not done again: the same command continues where it was interrupted, and
prints the table of what there is with `--table`.
"""

import argparse
import itertools
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

from transformers import BertConfig, GPT2Config, TrainingArguments

from hf_vanilla import VanillaDecoderConfig, VanillaEncoderConfig
from hf_vanilla.cli.streams import run_program
from hf_vanilla.data.built_in import BIBLE, BROWN
from hf_vanilla.data.corpora import load_texts
from hf_vanilla.data.files import SPLITS
from hf_vanilla.data.tokenization import train_tokenizer
from hf_vanilla.training.yaml_files import read_yaml, write_yaml

SCRIPTS = Path(__file__).parent
VOCABULARY, INNER = 4000, 1024
SIZE = {"vocab_size": VOCABULARY, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
SIZE["max_position_embeddings"] = 512
LIKE_BERT = {"position_embedding_type": "learned", "scale_embedding": False, "activation_function": "gelu"}
# The number of updates, each of 1,024 tokens, for each length of pieces. In pieces of 16, attention soon finds the
# neighbours of what is masked; in ones of 128 from the start, it still sees bags of words after as many tokens.
PRETRAINING = {16: 3200, 32: 600, 64: 600, 128: 600}
# For each task: its script, the metric, the number of updates, and further options. An update reads 32 texts.
TASKS = {
    "sentiment": ("sequence_classification", "accuracy", 800, "--dataset_name movie_reviews --max_seq_length 96"),
    "genre": ("sequence_classification", "accuracy", 800, "--dataset_name brown_genres --max_seq_length 192"),
    "tags": ("token_classification", "accuracy", 1500, "--dataset_name brown_tags --max_seq_length 256"),
    "questions": ("question_answering", "f1", 1500, "--max_seq_length 128 --doc_stride 32"),
    "choices": ("multiple_choice", "accuracy", 1500, "--per_device_train_batch_size 8"),
    "causal_lm": ("causal_lm", "perplexity", 1500, "--dataset_name brown --block_size 128"),
}
TRAINING = "--per_device_train_batch_size 32 --per_device_eval_batch_size 64 --lr_scheduler_type linear "
TRAINING += "--warmup_steps 0.1 --learning_rate 5e-4"
EVALUATION = "--eval_strategy steps --save_strategy steps --eval_steps 0.5 --save_steps 0.5"


def prepare(folder: Path) -> None:
    """Write prose, tokenizers, configurations of one size, and generated rows into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    prose = folder / "prose.txt"
    if not prose.exists():
        texts = [text for name in (BROWN, BIBLE) for text in load_texts(name)["train"]["text"]]
        prose.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    for family in ("encoder", "decoder"):
        if not (folder / family / "tokenizer.json").exists():
            tokenizer = train_tokenizer(prose.read_text(encoding="utf-8").split("\n\n"), VOCABULARY, family)
            tokenizer.save_pretrained(folder / family)
    bert = {**SIZE, "intermediate_size": INNER}
    gpt2 = {**SIZE, "n_inner": INNER, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "attn_pdrop": 0.0}
    for name, config in {
        "ours-encoder": VanillaEncoderConfig(**bert, **LIKE_BERT, embedding_norm=True),
        "peer-encoder": BertConfig(**bert, attention_probs_dropout_prob=0.0, layer_norm_eps=1e-5),
        "ours-decoder": VanillaDecoderConfig(**bert, **LIKE_BERT, norm_position="pre"),
        "peer-decoder": GPT2Config(**gpt2, activation_function="gelu"),
    }.items():
        config.save_pretrained(folder / "configs" / name)
    generate = [
        str(SCRIPTS / "generate_reading_tasks.py"),
        str(folder / "reading"),
        "--rows",
        "12000",
        "--people",
        "2",
    ]
    run(folder, "reading", [sys.executable, *generate], (folder / "reading").exists())


def pretrain(folder: Path, model: str) -> None:
    """Pretrain ours or BERT ("peer") as a masked language model on the same batches, short pieces first."""
    given = read_yaml(SCRIPTS / "configs" / "masked_lm_16.yaml") | {"optimizer": "adam", "learning_rate": 1e-3}
    given |= {"corpus": str(folder / "prose.txt"), "tokenizer": str(folder / "encoder"), "vocab_size": VOCABULARY}
    for pieces, updates in PRETRAINING.items():
        output = folder / (model if pieces == max(PRETRAINING) else f"{model}-{pieces}")
        given |= {"max_length": pieces, "batch_tokens": 1024, "max_steps": updates, "warmup_steps": updates // 10}
        config = folder / f"{output.name}.yaml"
        config.write_text(write_yaml(given | {"output_dir": str(output)}), encoding="utf-8")
        command, done = ["-m", "hf_vanilla.cli", "train", str(config)], "training_summary.json"
        if model == "peer":
            command, done = [str(SCRIPTS / "train_peer.py"), str(config), str(output)], "model.safetensors"
        run(folder, f"pretraining-{output.name}", [sys.executable, *command], (output / done).exists())
        given |= {"initial_model": str(output), "tokenizer": None}


def run(folder: Path, name: str, command: list[str], done: bool = False) -> None:
    """Run a command, and write it and its output to `folder`; if it is done, check that it was the same command."""
    if done:
        if (earlier := (folder / f"{name}.command").read_text(encoding="utf-8").strip()) != shlex.join(command):
            sys.exit(f"{name} in {folder} was made by another command, {earlier}: choose another folder")
        return
    print(name, flush=True)
    (folder / f"{name}.command").write_text(shlex.join(command) + "\n", encoding="utf-8")
    with (folder / f"{name}.log").open("w", encoding="utf-8") as log:
        if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode:
            sys.exit(f"{name} failed; see {folder / f'{name}.log'}")


def finetune(
    folder: Path, task: str, model: str, start: str, seed: int, scale: float, checkpoint: str, given: list[str]
) -> None:
    """Run a fine-tuning script once, unless that is done, with the updates of the task times `scale`.

    The `model` is "ours", "peer", or the name of another one, whose weights `checkpoint` has; its `start` is
    "pretrained", or "new" for new weights of the same shape. What is `given` are further options of the script.
    """
    script, _, updates, options = TASKS[task]
    name, steps = f"{task}-{model}-{start}-{seed}", max(4, int(updates * scale))
    family = "decoder" if task == "causal_lm" else "encoder"
    splits = () if "--dataset_name" in options else SPLITS  # of generated rows
    files = [part for split in splits for part in (f"--{split}_file", f"{folder}/reading/{task}_{split}.jsonl")]
    config = checkpoint or str(folder / "configs" / f"{model}-{family}")
    origin = ["--config_name", config, "--tokenizer_name", checkpoint or str(folder / family)]
    if start == "pretrained":
        origin = ["--model_name_or_path", checkpoint or str(folder / model), "--max_grad_norm", "1.0"]
        origin += [] if checkpoint else ["--tokenizer_name", str(folder / "encoder")]
    command = [sys.executable, str(SCRIPTS / f"finetune_{script}.py"), *origin, "--output_dir", str(folder / name)]
    command += [*TRAINING.split(), *files, *options.split(), *EVALUATION.split()]
    command += ["--max_steps", str(steps), "--seed", str(seed), "--disable_tqdm", "true", *given]
    run(folder, name, command, bool(results(folder / name)))


def results(folder: Path) -> dict[str, float]:
    """Return what a run reached on the test split; nothing if it is not done."""
    found = json.loads(path.read_text(encoding="utf-8")) if (path := folder / "all_results.json").exists() else {}
    return found if "test_loss" in found else {}


def table(folder: Path, tasks: list[str], columns: list[tuple[str, str]], seeds: list[int]) -> None:
    """Print means over the seeds, and their standard deviation, on the test split; updates a second in brackets."""
    print("| task | metric |", " | ".join(f"{model}, {start}" for model, start in columns), "|")
    print("|---|---|" + "---|" * len(columns))
    for task in tasks:
        cells = []
        for model, start in columns:
            found = [of for seed in seeds if (of := results(folder / f"{task}-{model}-{start}-{seed}"))]
            values, speeds = (
                [of[name] for of in found] for name in (f"test_{TASKS[task][1]}", "train_steps_per_second")
            )
            spread = f" ± {statistics.stdev(values):.3g}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.4g}{spread} ({statistics.mean(speeds):.2f})" if found else "")
        print(f"| {task} | {TASKS[task][1]} |", " | ".join(cells), "|")


def main() -> None:
    """Train what the options ask for and is not done, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--starts", nargs="+", choices=("new", "pretrained"), default=["new", "pretrained"])
    parser.add_argument("--scale", type=float, default=1.0, help="a factor for the updates of each fine-tuning")
    said = "ours, peer, or NAME=CHECKPOINT of an encoder (default: ours peer)"
    parser.add_argument("--models", nargs="+", default=["ours", "peer"], help=said)
    parser.add_argument("--table", action="store_true", help="train nothing, print the table of what is done")
    arguments, given = parser.parse_known_args()
    known = {f"--{name}" for name in TrainingArguments.__dataclass_fields__}
    if wrong := [text for text in given if text.startswith("-") and text.partition("=")[0] not in known]:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")  # now, and not after pretraining
    models = {name: checkpoint for name, _, checkpoint in (model.partition("=") for model in arguments.models)}
    for name, checkpoint in models.items():
        if (name in ("ours", "peer")) == bool(checkpoint) or not name or name != Path(name).name:
            parser.error(f"--models {name}: expected ours, peer, or NAME=CHECKPOINT with another name")
    if len(models) < len(arguments.models):
        parser.error("--models: a name is there twice")
    columns = [(model, start) for start in arguments.starts for model in models]
    if not arguments.table:
        prepare(arguments.folder)
        if "pretrained" in arguments.starts and set(arguments.tasks) != {"causal_lm"}:
            for model in [model for model in models if not models[model]]:
                pretrain(arguments.folder, model)
        for seed, task, (model, start) in itertools.product(arguments.seeds, arguments.tasks, columns):
            if task != "causal_lm" or (start == "new" and not models[model]):
                finetune(arguments.folder, task, model, start, seed, arguments.scale, models[model], given)
    table(arguments.folder, arguments.tasks, columns, arguments.seeds)


if __name__ == "__main__":
    run_program(main)
