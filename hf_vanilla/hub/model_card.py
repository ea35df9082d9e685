"""Model cards, rendered from what training and evaluation recorded in a folder, and from nothing else."""

import hashlib
import html
import importlib.metadata
import json
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import sacrebleu
import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, Trainer

import hf_vanilla
from hf_vanilla.data.built_in import BUILT_IN
from hf_vanilla.data.files import read_lines
from hf_vanilla.data.formats import format_of
from hf_vanilla.data.hub_names import hub_id
from hf_vanilla.data.pairs import built_in_languages, is_language, reads_sequences
from hf_vanilla.environment import hardware
from hf_vanilla.hub.metadata import check_languages, check_license, language_names
from hf_vanilla.training.checkpointing import digest
from hf_vanilla.translation.score_choices import NEAREST_SCORES

logger = logging.getLogger(__name__)

SUMMARY, EVALUATION, SAMPLES = "training_summary.json", "evaluation.json", "samples.jsonl"
CURVES, ATTENTION, CARD, CONFIG = "curves.png", "attention.png", "README.md", "training_config.yaml"
CURVES_DARK, ATTENTION_DARK = "curves_dark.png", "attention_dark.png"
NOTEBOOK, WIDGET = "notebook.ipynb", "widget.json"
MODULE_FILES = (MODULES, SENTENCES) = ("modules.json", "config_sentence_transformers.json")
"""What tells that a model is one of sentence-transformers, and which kind."""
PICTURES = (CURVES, CURVES_DARK, ATTENTION, ATTENTION_DARK)
RECORDS = ("config.json", CONFIG, SUMMARY, EVALUATION, SAMPLES, WIDGET, NOTEBOOK, *PICTURES, *MODULE_FILES)
"""The files that a card is made of, or shows. Weights are not needed."""

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
GENERATING = ("AutoModelForSeq2SeqLM", "AutoModelForCausalLM")
FAMILY_NAMES = {"vanilla": "encoder-decoder"}
FAMILY_NAMES |= {f"vanilla_{family}": family for family in ("encoder", "decoder", "recurrent")}
SEQUENCES = "text2text-generation"
"""The Hub's tag for an encoder-decoder whose pairs are sequences of any symbols, and no translations."""
METRICS = {"bleu": "BLEU", "chrf": "chrF2", "chrf++": "chrF2++", "ter": "TER", "comet": "COMET"}
METRICS |= {name: name.replace("_", " ") for name in (*NEAREST_SCORES, "recall_among_beams")}
EXAMPLE = "In the beginning God made the heaven and the earth."
SETTINGS = {
    "batch_tokens": "tokens a side in one update",
    "max_length": "longest example, in tokens",
    "schedule": "schedule",
    "learning_rate": "learning rate",
    "warmup_steps": "warm-up, updates or share of the run",
    "label_smoothing": "label smoothing",
    "dropout": "dropout",
    "average_last": "snapshots averaged",
    "ema_decay": "decay of the moving average",
    "max_grad_norm": "gradients clipped to",
    "seed": "seed",
}
TRAINER_SETTINGS = (
    "num_train_epochs per_device_train_batch_size gradient_accumulation_steps learning_rate lr_scheduler_type "
    "warmup_steps weight_decay optim label_smoothing_factor seed"
).split()


@dataclass
class Score:
    """One measured value, and how it was measured."""

    test_set: str
    split: str | None
    metric: str
    value: float
    measured_on: str
    confidence: float | None = None
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def metric_name(self) -> str:
        return METRICS.get(self.metric, self.metric)

    @property
    def shown(self) -> str:
        """The value to four digits, or to one decimal place if it has an interval of confidence; COMET's to four."""
        digits = 4 if self.metric == "comet" else 1
        interval = self.confidence
        return f"{self.value:.4g}" if interval is None else f"{self.value:.{digits}f} ± {interval:.{digits}f}"


class Records:
    """What a folder records of a model and of its training.

    Attributes:
        run: `training_summary.json`; empty if there is none.
        configuration: in the summary of `hf-vanilla train`, the fields of its configuration; empty for a Trainer.
        library: the Hub's name of the library that loads it.
        corpus, built_in: Hub id or name of what it learned from, never a path, and the facts of a built-in corpus.
        base_model: Hub id or name of the model whose weights it started from.
        hub: those of `dataset` and `base_model` that are on the Hub, by their ids; None for another.
    """

    def __init__(self, folder: Path):
        self.config = load_config(folder)
        self.auto_class = auto_class_of(self.config)
        self.pipeline_tag = PIPELINES[self.auto_class]
        self.run: dict[str, Any] = read_json(folder / SUMMARY) or {}
        self.configuration: dict[str, Any] = self.run.get("configuration", {})
        if self.pipeline_tag == "translation" and (reads_sequences(folder) or not is_language(self.configuration)):
            self.pipeline_tag = SEQUENCES
        if is_sentence_model := (folder / MODULES).is_file():
            kind = (read_json(folder / SENTENCES) or {}).get("model_type")
            self.pipeline_tag = "text-ranking" if kind == "CrossEncoder" else "sentence-similarity"
        self.library = "sentence-transformers" if is_sentence_model else "transformers"
        self.scores = scores_of(self.run, current_evaluations(folder), self.pipeline_tag == SEQUENCES)
        self.samples = read_samples(folder)
        self.widget: list[dict[str, Any]] = read_json(folder / WIDGET) or []
        self.has_picture = (folder / ATTENTION).exists()
        corpus = self.configuration.get("corpus") or self.run.get("dataset") or ""
        self.corpus, self.built_in = public(corpus), BUILT_IN.get(corpus, {})
        base_model = self.run.get("base_model") or self.configuration.get("initial_model")
        self.base_model = public(base_model)
        # Earlier versions did not record what was on the Hub; a name without a user may be what is left of a path.
        is_file = format_of(Path(corpus)) is not None or Path(corpus).suffix.lower() in (".txt", ".gz", ".zst")
        found = {"dataset": None if is_file else hub_id(corpus), "base_model": hub_id(base_model)}
        found = {name: value if value and "/" in value else None for name, value in found.items()}
        self.hub: dict[str, str | None] = self.run.get("hub", found)


def render_card(
    folder: Path,
    repo_id: str,
    languages: Sequence[str] | None = None,
    license: str | None = None,
    space: bool = False,
    twin: str = "",
) -> ModelCard:
    """Return the card of the model in a folder that `hf-vanilla train`, or a Trainer with [`use_model_card`], wrote.

    Args:
        folder: holds the [`RECORDS`], or at least `config.json`: the card is silent about what is missing.
        repo_id: `user/name`, in the code of the card.
        languages: ISO 639-1 codes (default: those of a built-in corpus, if it learned from one).
        license: of the weights, by the Hub's identifier (default: apache-2.0 if a run of `hf-vanilla train` began with
            new ones, else none: those of others have a license of theirs).
        space: whether there is a Space of the same name, which the card then links.
        twin: repository of the same weights as a class of transformers, which the card then links.

    Raises:
        FileNotFoundError, ValueError: there is no `config.json`, or it is no model's of this package; a language or
            the license is none that the Hub knows.
    """
    validate_repo_id(repo_id)
    check_languages(languages or ())
    check_license(license or "other")
    records = Records(folder)
    return ModelCard.from_template(
        metadata_of(records, repo_id, languages, license),
        template_str=read_template("model_card.md"),
        name=repo_id.split("/")[-1],
        repo_id=repo_id,
        space=space,
        twin=twin,
        summary=describe_model(records),
        notebook=(folder / NOTEBOOK).exists(),
        usage=usage_of_records(records, repo_id),
        length_penalty=(read_json(folder / "generation_config.json") or {}).get("length_penalty_form", "paper"),
        example=first_example(records),
        precision=records.run.get("mixed_precision", "no").replace("no", "float32"),
        hyperparameters=settings_of(records),
        signatures=sorted({score.arguments["signature"] for score in records.scores if score.arguments}),
        pictures={name for name in PICTURES if (folder / name).exists()},
        plain=plain,
        oneline=oneline,
        **vars(records) | {"samples": best_median_worst(records.samples)},
    )


render = render_card  # programs may know it as `hf_vanilla.model_card.render`


def read_template(name: str) -> str:
    """Return the text of a template of this package."""
    return (files("hf_vanilla") / "templates" / name).read_text(encoding="utf-8")


def render_template(template: str, **facts: Any) -> str:
    """Return a template of this package, filled in; `plain` is for facts that go into Markdown."""
    return jinja2.Template(read_template(template)).render(plain=plain, **facts)


def usage_of(auto_class: str, **facts: Any) -> str:
    """Return code that loads a model from its page and uses it."""
    has_pipeline = auto_class.endswith(("MaskedLM", "SequenceClassification", "TokenClassification"))
    return render_template("usage.jinja", auto_class=auto_class, has_pipeline=has_pipeline, **facts)


def usage_of_records(records: Records, repo_id: str) -> str:
    """Return [`usage_of`] the model that has these records."""
    names = ("auto_class", "config", "pipeline_tag", "library")
    return usage_of(
        repo_id=repo_id, example=first_example(records), **{name: getattr(records, name) for name in names}
    )


def first_example(records: Records) -> str:
    """Return a string of Python with a short text to use a model on: from its first sample, if it has any."""
    return literal(example_of(first_text(records.samples), records.pipeline_tag))


def first_text(samples: Sequence[dict[str, str]]) -> str:
    """Return the first text, or source, of samples, or one that is always there."""
    return next((sample[side] for sample in samples for side in ("source", "text") if side in sample), EXAMPLE)


def metadata_of(records: Records, repo_id: str, languages: Sequence[str] | None, license: str | None) -> ModelCardData:
    """Return the metadata by which the Hub lists a model; see [`render_card`]."""
    corpus, base, scores = records.corpus, records.base_model, records.scores
    results = [
        EvalResult(
            task_type=records.pipeline_tag,
            dataset_type=oneline(corpus or "unknown"),
            dataset_name=oneline(score.test_set),
            # The Hub merges what has the same type, config, split and revision.
            dataset_config=oneline(f"{score.test_set}, {score.measured_on}"),
            dataset_split=score.split,
            metric_type=score.metric,
            metric_name=score.metric_name,
            metric_value=round(score.value, 4),
            metric_args=score.arguments or None,
        )
        for score in scores
    ]
    return ModelCardData(
        language=list(languages or records.built_in.get("languages", [])) or None,
        license=license or ("apache-2.0" if "configuration" in records.run and not base else None),
        library_name=records.library,
        pipeline_tag=records.pipeline_tag,
        tags=[
            *([records.library] if records.library != "transformers" else []),
            *("hf_vanilla", "attention-is-all-you-need", FAMILY_NAMES[records.config.model_type]),
            *(["custom_generate"] if records.auto_class in GENERATING else []),
        ],
        datasets=[records.hub["dataset"]] if records.hub["dataset"] and not records.built_in else None,
        metrics=sorted({score.metric for score in scores}) or None,
        base_model=records.hub["base_model"],
        model_name=repo_id.split("/")[-1],
        eval_results=results or None,
        widget=widget_of(records) or None,
        co2_eq_emissions=emissions_of(records),
        thumbnail=f"https://huggingface.co/{repo_id}/resolve/main/{ATTENTION}" if records.has_picture else None,
    )


def emissions_of(records: Records) -> dict[str, Any] | None:
    """Return the Hub's entry for the CO2 of a training run, if CodeCarbon measured it."""
    if not (emissions := records.run.get("emissions")):
        return None
    found = {
        "emissions": emissions["grams"],
        "source": "CodeCarbon",
        "training_type": "fine-tuning" if records.base_model else "pre-training",
        "hardware_used": oneline(records.run.get("hardware", "unknown")),
    }
    return found | ({"geographical_location": emissions["location"]} if "location" in emissions else {})


def best_median_worst(samples: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """Return, of translated samples, those with the best, the median and the worst chrF2 against their reference, each
    with its `rank` and its `score`; fewer if there are fewer."""
    translated = [sample for sample in samples if "source" in sample]
    scored: list[dict[str, Any]] = [
        sample | {"score": sacrebleu.sentence_chrf(sample["translation"], [sample["target"]]).score}
        for sample in translated
    ]
    scored.sort(key=lambda sample: -sample["score"])
    found: dict[int, str] = {}
    for rank, place in (("best", 0), ("worst", len(scored) - 1), ("median", len(scored) // 2)):
        found.setdefault(place, rank)
    return [scored[place] | {"rank": found[place]} for place in sorted(found) if scored]


def widget_of(records: Records) -> list[dict[str, Any]]:
    """Return examples for the page's widget: samples, with the output that the model gave where that was recorded."""
    if "source" in (records.samples or [{}])[0]:
        return [
            {"text": oneline(sample["source"]), "output": {"text": oneline(sample["translation"])}}
            for sample in best_median_worst(records.samples)
        ]
    if records.widget or records.pipeline_tag not in ("fill-mask", "text-generation"):
        return records.widget
    texts = (example_of(sample["text"], records.pipeline_tag) for sample in records.samples[:3])
    return [{"text": text} for text in texts]


def load_config(folder: Path) -> PreTrainedConfig:
    """Return the configuration of a model of this package, or raise `FileNotFoundError` or `ValueError`."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no model: it has no config.json")
    kind = (read_json(folder / "config.json") or {}).get("model_type")
    if kind not in FAMILY_NAMES:
        raise ValueError(f"{folder}: model_type is {kind!r}; expected one of {', '.join(FAMILY_NAMES)}")
    try:
        return AutoConfig.from_pretrained(folder)
    except Exception as error:  # of huggingface_hub's checks, too
        raise ValueError(f"{folder / 'config.json'}: {oneline(error)}") from None


def auto_class_of(config: PreTrainedConfig) -> str:
    """Return the name of the Auto class that loads a configuration's architecture, or raise `ValueError`."""
    name = next(iter(config.architectures or ()), None)
    classes = {reference.split(".")[1]: auto_class for auto_class, reference in config.family_auto_map.items()}
    if name not in classes:
        raise ValueError(f"config.json: architectures names {name!r}; expected one of {', '.join(classes)}")
    return classes[name]


def read_json(path: Path) -> Any:
    """Return what a file holds, or None if there is none; raise `ValueError` if it is no JSON."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def read_samples(folder: Path) -> list[dict[str, str]]:
    """Return the samples that a run has left: `text`, or `source`, `target` and `translation`; none without a file."""
    return [json.loads(line) for line in read_lines(folder / SAMPLES)] if (folder / SAMPLES).is_file() else []


def write_record(path: Path, value: object) -> None:
    """Write a record as indented JSON, in the form in which `hf-vanilla train` writes it."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def weights_digest(folder: Path) -> str | None:
    """Return a SHA-256, in hexadecimal, of all safetensors files in a folder; None if there are none."""
    digests = [digest(file) for file in sorted(folder.glob("*.safetensors"))]
    return hashlib.sha256("".join(digests).encode()).hexdigest() if len(digests) > 1 else next(iter(digests), None)


def current_evaluations(folder: Path) -> list[dict[str, Any]]:
    """Return what `hf-vanilla evaluate` recorded of the weights in a folder; scores of others are left out."""
    evaluations: list[dict[str, Any]] = read_json(folder / EVALUATION) or []
    weights = weights_digest(folder) if evaluations else None
    current = [scores for scores in evaluations if weights in (None, scores["weights"])]
    if len(current) < len(evaluations):
        logger.warning("%s: left out what was measured of other weights; evaluate these again", folder / EVALUATION)
    return current


def public(value: Any) -> Any:
    """Return a value of a configuration as others may see it: of a path on this machine its last part alone."""
    if isinstance(value, list):
        return [public(each) for each in value]
    if isinstance(value, str) and (Path(value).exists() or re.match(r"[/.~]|file:|[A-Za-z]:[/\\]", value)):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value


def scores_of(
    summary: dict[str, Any], evaluations: Sequence[dict[str, Any]], of_sequences: bool = False
) -> list[Score]:
    """Return the scores of evaluated test sets, then those of the validation split at the end of training."""
    scores = []
    for row in evaluations:
        search = "greedy" if row["num_beams"] == 1 else f"beam {row['num_beams']}"
        count, answers = f"{row['sentences']:,} sentences", f"{row['references']} reference(s)"
        if of_sequences:
            several = row["references"] > 1
            count = f"{row['sentences']:,} sequences"
            answers = f"the nearest of up to {row['references']} answers" if several else "one answer each"
        details = f"{count}, {answers}, {search}, {row['precision']}"
        how = {name: row[name] for name in ("num_beams", "references")}
        for metric in (name.removesuffix("_signature") for name in row if name.endswith("_signature")):
            arguments, confidence = {"signature": row[f"{metric}_signature"]} | how, row[f"{metric}_confidence"]
            scores.append(Score(row["set"], row["split"], metric, row[metric], details, confidence, arguments))
    final = summary.get("final", {})
    unigram = final.get("unigram_perplexity")
    details = "as training ended" + (f"; by the frequencies of tokens alone {unigram:.4g}" if unigram else "")
    for name, value in final.items():
        metric = name.removeprefix("validation_").removeprefix("eval_")
        is_score = metric == "perplexity" or name.startswith("eval_")
        if is_score and isinstance(value, int | float) and math.isfinite(value):
            scores.append(Score("validation split", "validation", metric, value, details))
    return scores


def describe_model(records: Records) -> str:
    """Return the first paragraph: what the model is, does, and started from, and its sizes."""
    config, auto_class = records.config, records.auto_class
    with torch.device("meta"):
        model: PreTrainedModel = getattr(hf_vanilla, (config.architectures or [""])[0])(config)
    parameters = sum(weight.numel() for weight in model.parameters())
    does = {
        "AutoModelForSeq2SeqLM": f" that {describe_task(records)}",
        "AutoModelForMaskedLM": " that fills in masked tokens",
        "AutoModelForCausalLM": " that continues text",
    }.get(auto_class, f" for {records.pipeline_tag.replace('-', ' ')}")
    family, heads = FAMILY_NAMES[config.model_type], ""
    if family == "recurrent":
        attention = "without" if config.attention_type == "none" else f"with {config.attention_type}"
        kind = f"A recurrent encoder-decoder{does}, of {config.cell_type.upper()} cells, {attention} attention"
    else:
        paper = "[Attention Is All You Need](https://arxiv.org/abs/1706.03762)"
        kind = f"{'An' if family[0] == 'e' else 'A'} {family} Transformer{does}, as in {paper}"
        heads = f"{config.num_attention_heads} heads, "
    if records.base_model:
        kind += f", fine-tuned from {plain(records.base_model)}"
    elif records.run:
        kind += ", trained from scratch"
    both = config.is_encoder_decoder
    depth = f"{config.encoder_layers} + {config.decoder_layers}" if both else config.num_hidden_layers
    labels, names = "", list((config.id2label or {}).values())
    if auto_class.endswith(("SequenceClassification", "TokenClassification")) and len(names) > 1:
        labels = f" It answers with one of {len(names)} labels: {', '.join(map(plain, names))}."
    return (
        f"{kind}: {depth} layers, {config.hidden_size} wide, {heads}{config.vocab_size:,} tokens, "
        f"{parameters / 1e6:,.1f} million parameters.{labels}"
    )


def describe_task(records: Records) -> str:
    """Return what an encoder-decoder does to a text, as its corpus or its tokenizers say."""
    if records.pipeline_tag != SEQUENCES:
        codes = built_in_languages(records.configuration)
        return "translates {} into {}".format(*map(language_names().get, codes)) if codes else "translates"
    if does := records.built_in.get("does"):
        return str(does)
    units = {"words": "symbols between blanks", "characters": "characters", "bpe": "parts of words"}
    fields = records.configuration
    source = fields.get("tokenizer_type", "characters")
    sides = zip(("source", "target"), (source, fields.get("target_tokenizer_type") or source), strict=True)
    named = [f"{plain(fields.get(f'{side}_column', side))} ({units[kind]})" for side, kind in sides]
    return "turns one sequence into another: {} into {}".format(*named)


def settings_of(records: Records) -> list[list[str]]:
    """Return rows of the table of hyperparameters: those of `hf-vanilla train`, or those of a Trainer."""
    fields = records.configuration or records.run.get("arguments") or {}
    names = SETTINGS if "configuration" in records.run else {name: name.replace("_", " ") for name in fields}
    values = {shown: fields.get(name) for name, shown in names.items()}
    return [[plain(shown), plain(public(value))] for shown, value in values.items() if value is not None]


def example_of(text: str, pipeline_tag: str) -> str:
    """Return a short text for the card's code: one sentence, with a mask where one is to be filled in."""
    words = re.split(r"(?<=[.!?]) ", oneline(text))[0].split()[:12] or EXAMPLE.split()
    if pipeline_tag == SEQUENCES:
        return oneline(text)
    if pipeline_tag == "fill-mask":
        words[len(words) // 2] = "<mask>"
    elif pipeline_tag == "text-generation":
        words = words[:5]
    return " ".join(words)


def use_model_card(trainer: Trainer) -> None:
    """Let a Trainer write this card where it would write its own: with each push, and by `create_model_card`.

    Beside the card in `output_dir` it leaves `training_summary.json`, of which `hf-vanilla push` makes the card anew.
    """

    def create_model_card(
        language: str | Sequence[str] | None = None,
        license: str | None = None,
        dataset: str | Sequence[str] | None = None,
        finetuned_from: str | None = None,
        **unused: object,
    ) -> None:
        if not trainer.is_world_process_zero():
            return
        folder = Path(str(trainer.args.output_dir))
        if not (folder / "config.json").exists():
            trainer.save_model(_internal_call=True)
        datasets = [dataset] if isinstance(dataset, str) else [*(dataset or ()), None]
        write_record(folder / SUMMARY, summarise_trainer(trainer, datasets[0], finetuned_from))
        repo_id = trainer.hub_model_id or trainer.args.hub_model_id or folder.resolve().name
        languages = [language] if isinstance(language, str) else language
        render_card(folder, repo_id, languages, license).save(folder / CARD)

    setattr(trainer, "create_model_card", create_model_card)  # noqa: B010  its place is a method, to a type checker


def summarise_trainer(trainer: Trainer, dataset: str | None, base_model: str | None) -> dict[str, Any]:
    """Return what a Trainer knows of its run, as `hf-vanilla train` would record it."""
    arguments, log = trainer.args, trainer.state.log_history
    evaluations = [record for record in log if any(name.startswith("eval_") for name in record)]
    final = {name: value for name, value in (evaluations or [{}])[-1].items() if name.startswith("eval_")}
    examples: Any = trainer.train_dataset
    model: Any = trainer.model
    packages = ("hf-vanilla", "torch", "transformers", "datasets", "tokenizers", "accelerate")
    base_model = base_model or model.config._name_or_path or None
    return {
        "base_model": public(base_model),
        "dataset": public(dataset or getattr(getattr(examples, "info", None), "dataset_name", None)),
        # A data set's name without a user may be that of a file.
        "hub": {"base_model": hub_id(base_model), "dataset": hub_id(dataset) if "/" in (dataset or "") else None},
        "training_examples": len(examples) if hasattr(examples, "__len__") else None,
        "arguments": {name: str(getattr(arguments, name)) for name in TRAINER_SETTINGS},
        "updates": trainer.state.global_step,
        "epochs": trainer.state.epoch or 0.0,
        "seconds": sum(record.get("train_runtime", 0.0) for record in log),
        "final": {name: final[name] for name in final if not name.endswith(("runtime", "per_second", "_time"))},
        "processes": arguments.world_size,
        "mixed_precision": "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "no",
        "hardware": hardware(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def oneline(text: object) -> str:
    """Return text without line breaks and control characters, which could break out of YAML or Markdown."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def plain(text: object) -> str:
    """Return text from data, configurations or files escaped for Markdown: no markup, no HTML, no second line."""
    return re.sub(r"([\\`*_\[\]|#~$!])", r"\\\1", html.escape(oneline(text), quote=False))


def literal(text: object) -> str:
    """Return text as a string of Python for a block of code."""
    return json.dumps(oneline(text).replace("`", "'"), ensure_ascii=False)
