"""A model's card, rendered from what its training recorded, and from nothing else."""

import hashlib
import html
import importlib.metadata
import json
import logging
import math
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id
from transformers import AutoConfig

import hf_vanilla
from hf_vanilla.data.built_in import BUILT_IN
from hf_vanilla.data.files import read_lines
from hf_vanilla.environment import hardware
from hf_vanilla.training.checkpointing import digest

logger = logging.getLogger(__name__)

SUMMARY, EVALUATION, SAMPLES = "training_summary.json", "evaluation.json", "samples.jsonl"
CURVES, ATTENTION, CARD, CONFIG = "curves.png", "attention.png", "README.md", "training_config.yaml"
RECORDS = ("config.json", CONFIG, SUMMARY, EVALUATION, SAMPLES, CURVES, ATTENTION)
"""What a card is made of, or speaks of. A folder of these is enough; weights are not needed."""

PIPELINES = {
    "AutoModelForSeq2SeqLM": "translation",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForMultipleChoice": "multiple-choice",
    "AutoModel": "feature-extraction",
}
FAMILIES = {
    "vanilla": "encoder-decoder",
    "vanilla_encoder": "encoder",
    "vanilla_decoder": "decoder",
    "vanilla_recurrent": "recurrent",
}
METRICS = {"bleu": "BLEU", "chrf": "chrF2", "perplexity": "perplexity"}
EXAMPLE = "In the beginning God made the heaven and the earth."
SETTINGS = {
    "batch_tokens": "tokens a side in one update",
    "max_length": "longest example, in tokens",
    "schedule": "schedule",
    "learning_rate": "learning rate",
    "warmup_steps": "warm-up, updates",
    "label_smoothing": "label smoothing",
    "dropout": "dropout",
    "average_last": "snapshots averaged",
    "ema_decay": "decay of the moving average",
    "max_grad_norm": "gradients clipped to",
    "seed": "seed",
}
TRAINER_SETTINGS = (
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "optim",
    "label_smoothing_factor",
    "seed",
)
LIMITS = {
    "translation": "It is for study, for further training, and for single sentences of the kind that it learned from. "
    "Of other text it makes fluent nonsense, and says nothing of its doubts: do not act on a translation that nobody "
    "has checked.",
    "fill-mask": "It is a start for fine-tuning on text like that which it learned from, and a subject of study.",
    "text-generation": "What it writes sounds like what it learned from and states no facts: it is a start for "
    "fine-tuning and a subject of study.",
}
OTHER_LIMITS = "Its answers hold for input like that which it learned from; try it on your own before you rely on it."


def render(
    folder: Path, repo_id: str, languages: Sequence[str] | None = None, license: str | None = None
) -> ModelCard:
    """The card, for `repo_id`, of the model in a folder that `hf-vanilla train`, or a Trainer with [`use_model_card`],
    wrote.

    Args:
        folder: holds the [`RECORDS`]; of these only `config.json` must be there. What is missing is not told.
        repo_id: `user/name`, in the code of the card.
        languages: ISO 639-1 codes (default: those of a built-in corpus, if it learned from one).
        license: of the weights, by the Hub's identifier (default: apache-2.0 if a run of `hf-vanilla train` began with
            new ones, else none: those of others have a license of theirs).

    Raises:
        FileNotFoundError, ValueError: there is no `config.json`, or it is no model's of this package.
    """
    validate_repo_id(repo_id)
    config = load_config(folder)
    summary = read_json(folder / SUMMARY) or {}
    evaluations = current_evaluations(folder)
    samples = [json.loads(line) for line in read_lines(folder / SAMPLES)] if (folder / SAMPLES).exists() else []
    auto_class = auto_class_of(config)
    pipeline_tag = PIPELINES[auto_class]
    corpus, built_in = corpus_of(summary)
    base = public(summary.get("base_model") or summary.get("configuration", {}).get("initial_model"))
    scores = score_rows(summary, evaluations)
    data = ModelCardData(
        language=list(languages or built_in.get("languages", [])) or None,
        license=license or ("apache-2.0" if "configuration" in summary and not base else None),
        library_name="transformers",
        pipeline_tag=pipeline_tag,
        tags=["hf_vanilla", "attention-is-all-you-need", FAMILIES[config.model_type]],
        datasets=[corpus] if corpus and is_hub_id(corpus, built_in) else None,
        metrics=sorted({row["metric"] for row in scores}) or None,
        base_model=base if base and is_hub_id(base) else None,
        model_name=repo_id.split("/")[-1],
        eval_results=[
            EvalResult(
                task_type=pipeline_tag,
                dataset_type=oneline(corpus or "unknown"),
                dataset_name=oneline(row["set"]),
                dataset_split=row["split"],
                metric_type=row["metric"],
                metric_name=METRICS.get(row["metric"], row["metric"]),
                metric_value=round(row["value"], 4),
                metric_args=row["arguments"] or None,
            )
            for row in scores
        ]
        or None,
    )
    source = next((sample["source"] for sample in samples if "source" in sample), None)
    text = source or next((sample["text"] for sample in samples if "text" in sample), EXAMPLE)
    template = files("hf_vanilla") / "templates" / "model_card.md"
    return ModelCard.from_template(
        data,
        template_str=template.read_text(encoding="utf-8"),
        name=repo_id.split("/")[-1],
        repo_id=repo_id,
        summary=describe(config, auto_class, base, trained=bool(summary)),
        auto_class=auto_class,
        pipeline_tag=pipeline_tag,
        is_encoder_decoder=config.is_encoder_decoder,
        is_recurrent=config.model_type == "vanilla_recurrent",
        length_penalty=(read_json(folder / "generation_config.json") or {}).get("length_penalty_form", "paper"),
        example=literal(example_of(text, pipeline_tag)),
        data=describe_data(summary, corpus, built_in),
        hyperparameters=settings_of(summary),
        procedure=describe_procedure(summary),
        command=oneline(summary.get("command") or "").replace("`", "'"),
        curves=(folder / CURVES).exists(),
        results=result_table(scores),
        results_note=results_note(scores),
        samples=[
            [plain(s["source"]), plain(s["translation"]), plain(s["target"])] for s in samples[:3] if "source" in s
        ],
        attention=plain(attention_note(config)) if (folder / ATTENTION).exists() else None,
        limits=LIMITS.get(pipeline_tag, OTHER_LIMITS)
        + " It was not examined for bias, nor for what it may repeat of its training text.",
    )


def load_config(folder: Path) -> Any:
    """The configuration of a model of this package.

    Raises:
        FileNotFoundError, ValueError: there is none.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no model: it has no config.json")
    kind = (read_json(folder / "config.json") or {}).get("model_type")
    if kind not in FAMILIES:
        raise ValueError(f"{folder}: model_type is {kind!r}; expected one of {', '.join(FAMILIES)}")
    try:
        return AutoConfig.from_pretrained(folder)
    except Exception as error:  # of huggingface_hub's checks, too
        raise ValueError(f"{folder / 'config.json'}: {oneline(error)}") from None


def auto_class_of(config: Any) -> str:
    """The Auto class of the head that was saved."""
    name = (config.architectures or [None])[0]
    for auto_class, reference in config.family_auto_map.items():
        if reference.split(".")[1] == name:
            return auto_class
    expected = ", ".join(reference.split(".")[1] for reference in config.family_auto_map.values())
    raise ValueError(f"config.json: architectures names {name!r}; expected one of {expected}")


def read_json(path: Path) -> Any:
    """What a file holds; None if there is none.

    Raises:
        ValueError: it is no JSON.
    """
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def weights_digest(folder: Path) -> str | None:
    """The SHA-256 of the weights in a folder, of whose files there may be several; None if there are none."""
    digests = [digest(file) for file in sorted(folder.glob("*.safetensors"))]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest() if digests else None
    )


def current_evaluations(folder: Path) -> list[dict[str, Any]]:
    """What `hf-vanilla evaluate` recorded of these weights; scores of others that lay here before are left out."""
    evaluations = read_json(folder / EVALUATION) or []
    weights = weights_digest(folder) if evaluations else None
    if weights is None:
        return evaluations
    current = [scores for scores in evaluations if scores["weights"] == weights]
    if len(current) < len(evaluations):
        logger.warning("%s: left out what was measured of other weights; evaluate these again", folder / EVALUATION)
    return current


def corpus_of(summary: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """What a model learned from: the Hub id or name of it, never a path; and what is known of it if it is built in."""
    corpus = summary.get("configuration", {}).get("corpus") or summary.get("dataset")
    if not corpus:
        return None, {}
    return public(corpus), BUILT_IN.get(corpus, {})


def public(value: Any) -> Any:
    """A value of a configuration as others may see it: of a path on this machine its last part alone."""
    if isinstance(value, list):
        return [public(each) for each in value]
    if isinstance(value, str) and (Path(value).exists() or re.match(r"[/.~]|file:|[A-Za-z]:[/\\]", value)):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value


def is_hub_id(name: str, built_in: dict[str, Any] | None = None) -> bool:
    """Whether a name could be that of a repository: neither a built-in corpus nor a file."""
    return not built_in and bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not Path(name).suffix


def score_rows(summary: dict[str, Any], evaluations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each score by itself: of test sets as they were evaluated, and of the validation split as training ended."""
    rows = []
    for scores in evaluations:
        for metric in ("bleu", "chrf"):
            search = "greedy" if scores["num_beams"] == 1 else f"beam {scores['num_beams']}"
            rows.append(
                {
                    "set": scores["set"],
                    "split": scores["split"],
                    "metric": metric,
                    "value": scores[metric],
                    "confidence": scores[f"{metric}_confidence"],
                    "details": f"{scores['sentences']:,} sentences, {scores['references']} reference(s), {search}, "
                    f"{scores['precision']}",
                    "arguments": {
                        "signature": scores[f"{metric}_signature"],
                        "num_beams": scores["num_beams"],
                        "references": scores["references"],
                    },
                }
            )
    for name, value in summary.get("final", {}).items():
        metric = name.removeprefix("validation_").removeprefix("eval_")
        if (
            isinstance(value, int | float)
            and math.isfinite(value)
            and (metric == "perplexity" or name.startswith("eval_"))
        ):
            rows.append(
                {
                    "set": "validation split",
                    "split": "validation",
                    "metric": metric,
                    "value": value,
                    "confidence": None,
                    "details": "as training ended",
                    "arguments": {},
                }
            )
    return rows


def result_table(scores: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Header and rows of Markdown; nothing if there is no score."""
    rows = [
        [
            plain(row["set"]),
            plain(METRICS.get(row["metric"], row["metric"])),
            f"{row['value']:.4g}" if row["confidence"] is None else f"{row['value']:.1f} ± {row['confidence']:.1f}",
            plain(row["details"]),
        ]
        for row in scores
    ]
    return rows and [["set", "metric", "score", "measured on"], *rows]


def results_note(scores: Sequence[dict[str, Any]]) -> str:
    """What goes with the scores: the signatures without which they cannot be compared."""
    signatures = sorted({row["arguments"]["signature"] for row in scores if row["arguments"]})
    if not signatures:
        return "Measured by the training loop, once; the spread among seeds is not known."
    return "± is half of a 95 % interval by bootstrap. sacreBLEU signatures: " + ", ".join(
        f"`{signature}`" for signature in signatures
    )


def describe(config: Any, auto_class: str, base: str | None, trained: bool) -> str:
    """The first paragraph."""
    with torch.device("meta"):
        model = getattr(hf_vanilla, config.architectures[0])(config)
    parameters = sum(weight.numel() for weight in model.parameters())
    family = FAMILIES[config.model_type]
    if config.is_encoder_decoder:
        depth = f"{config.encoder_layers} + {config.decoder_layers} layers"
    else:
        depth = f"{config.num_hidden_layers} layers"
    if base:
        origin = f", fine-tuned from {plain(base)}"
    else:
        origin = ", trained from scratch" if trained else ""
    labels = ""
    if auto_class in ("AutoModelForSequenceClassification", "AutoModelForTokenClassification"):
        names = ", ".join(plain(name) for name in dict(config.id2label).values())
        labels = f" It answers with one of {config.num_labels} labels: {names}." if config.num_labels > 1 else ""
    task = {"Seq2SeqLM": " that translates", "MaskedLM": " that fills in masked tokens"}
    does = task.get(auto_class.removeprefix("AutoModelFor"), "")
    if auto_class == "AutoModelForCausalLM":
        does = " that continues text"
    elif not does:
        does = f" for {PIPELINES[auto_class].replace('-', ' ')}"
    if config.model_type == "vanilla_recurrent":
        attention = {"none": "without attention"}.get(config.attention_type, f"with {config.attention_type} attention")
        kind = f"A recurrent encoder-decoder{does}, of {config.cell_type.upper()} cells, {attention}"
        heads = ""
    else:
        kind = (
            f"{'An' if family[0] == 'e' else 'A'} {family} Transformer{does}, as in [Attention Is All You Need]"
            "(https://arxiv.org/abs/1706.03762)"
        )
        heads = f"{config.num_attention_heads} heads, "
    return (
        f"{kind}{origin}: {depth}, {config.hidden_size} wide, {heads}{config.vocab_size:,} tokens, "
        f"{parameters / 1e6:,.1f} million parameters.{labels}"
    )


def describe_data(summary: dict[str, Any], corpus: str | None, built_in: dict[str, Any]) -> str:
    """What a model learned from."""
    if not corpus:
        return "That is not recorded."
    text = f"{built_in['description']} (`{corpus}`)" if built_in else plain(corpus)
    if examples := summary.get("training_examples"):
        text += f", {examples:,} training examples"
    text += "."
    dropped = {reason: count for reason, count in summary.get("dropped_examples", {}).items() if count}
    if dropped:
        text += " Left out: " + ", ".join(f"{count:,} ({plain(reason)})" for reason, count in dropped.items()) + "."
    return text


def describe_procedure(summary: dict[str, Any]) -> str:
    """How long it trained, on what, by what."""
    if not summary:
        return ""
    hardware = plain(summary.get("hardware") or summary.get("device") or "unknown hardware")
    processes = summary.get("processes", 1)
    text = f"{summary.get('updates', 0):,} updates"
    if summary.get("target_tokens"):
        text += f" of {summary['target_tokens']:,} target tokens in all"
    text += f", {summary.get('epochs', 0):g} epoch(s), in {summary.get('seconds', 0) / 60:,.1f} minutes on {hardware}"
    text += f", {processes} processes" if processes > 1 else ""
    precision = {"no": "float32"}.get(summary.get("mixed_precision", "no"), summary.get("mixed_precision"))
    versions = ", ".join(f"{name} {version}" for name, version in summary.get("versions", {}).items())
    text += f", in {precision}, by {versions}. The energy that it took is not known."
    if "configuration" in summary:
        text += " `hf-vanilla train training_config.yaml`, with the file here, trains by the same settings again"
        if summary["configuration"].get("train_minutes"):
            text += ": how far it comes in that time depends on the machine"
        text += ". What was typed:" if summary.get("command") else "."
    return text


def settings_of(summary: dict[str, Any]) -> list[list[str]]:
    """Rows of the table of hyperparameters."""
    configuration = summary.get("configuration") or summary.get("arguments") or {}
    names = SETTINGS if "configuration" in summary else dict.fromkeys(configuration)
    rows = [[names[name] or name.replace("_", " "), configuration.get(name)] for name in names]
    return [[plain(name), plain(str(public(value)))] for name, value in rows if value is not None]


def example_of(text: str, pipeline_tag: str) -> str:
    """A text for the code of the card: of one sentence, short, and with a mask where one is to be filled in."""
    words = re.split(r"(?<=[.!?]) ", oneline(text))[0].split()[:12] or EXAMPLE.split()
    if pipeline_tag == "fill-mask":
        words[len(words) // 2] = "<mask>"
    elif pipeline_tag == "text-generation":
        words = words[:5]
    return " ".join(words)


def attention_note(config: Any) -> str:
    """What the picture shows."""
    columns = "each token of the source (columns)" if config.is_encoder_decoder else "each token (columns)"
    rows = "each token of the translation (rows)" if config.is_encoder_decoder else "each token (rows)"
    return f"One picture for each head of the last layer: how much {rows} looks at {columns}."


def use_model_card(trainer: Any) -> None:
    """Let a Trainer write this card where it would write its own: with each push, and by `create_model_card`.

    Beside the card in `output_dir` it leaves `training_summary.json`, of which `hf-vanilla push` makes the card anew.
    Arguments of `create_model_card` that are used: `language`, `license`, `dataset`, `finetuned_from`.
    """

    def create_model_card(
        language: str | Sequence[str] | None = None,
        license: str | None = None,
        dataset: Any = None,
        finetuned_from: str | None = None,
        **unused: Any,
    ) -> None:
        if not trainer.is_world_process_zero():
            return
        folder = Path(trainer.args.output_dir)
        if not (folder / "config.json").exists():
            trainer.save_model(_internal_call=True)
        dataset = dataset if isinstance(dataset, str) or not dataset else dataset[0]
        summary = summarise_trainer(trainer, dataset, finetuned_from)
        (folder / SUMMARY).write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        repo_id = trainer.hub_model_id or trainer.args.hub_model_id or folder.resolve().name
        languages = [language] if isinstance(language, str) else language
        render(folder, repo_id, languages, license).save(folder / CARD)

    trainer.create_model_card = create_model_card


def summarise_trainer(trainer: Any, dataset: str | None, base_model: str | None) -> dict[str, Any]:
    """What a Trainer knows of its run, as [`render`] wants it."""
    arguments, log = trainer.args, trainer.state.log_history
    evaluations = [record for record in log if any(name.startswith("eval_") for name in record)]
    speed = ("runtime", "per_second", "_time")
    examples = trainer.train_dataset
    precision = "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "no"
    packages = ("torch", "transformers", "datasets", "tokenizers", "accelerate")
    return {
        "base_model": public(base_model or trainer.model.config._name_or_path or None),
        "dataset": public(dataset or getattr(getattr(examples, "info", None), "dataset_name", None)),
        "training_examples": len(examples) if hasattr(examples, "__len__") else None,
        "arguments": {name: str(getattr(arguments, name)) for name in TRAINER_SETTINGS},
        "updates": trainer.state.global_step,
        "epochs": trainer.state.epoch or 0.0,
        "seconds": sum(record.get("train_runtime", 0.0) for record in log),
        "final": {
            name: value
            for name, value in (evaluations[-1] if evaluations else {}).items()
            if name.startswith("eval_") and not name.endswith(speed)
        },
        "processes": arguments.world_size,
        "mixed_precision": precision,
        "hardware": hardware(),
        "versions": {name: importlib.metadata.version(name) for name in ("hf-vanilla", *packages)},
    }


def oneline(text: Any) -> str:
    """Without line breaks and control characters, by which YAML and Markdown could be left."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def plain(text: Any) -> str:
    """Text of data, configurations and files as Markdown shows it: no markup, no HTML, no second line."""
    return re.sub(r"([\\`*_\[\]|#~$!])", r"\\\1", html.escape(oneline(text), quote=False))


def literal(text: Any) -> str:
    """The same as a string of Python in a block of code."""
    return json.dumps(oneline(text).replace("`", "'"), ensure_ascii=False)
