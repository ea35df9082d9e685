"""The page of an adapter of PEFT: its weights, its tokenizer if it has one, its records, and a card of its own."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer

import hf_vanilla
from hf_vanilla.data.hub_names import hub_id
from hf_vanilla.hub.model_card import (
    CARD,
    PIPELINES,
    auto_class_of,
    example_of,
    first_text,
    literal,
    load_config,
    oneline,
    plain,
    read_json,
    read_samples,
    read_template,
    usage_of,
)

ADAPTER, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
HEADS = {"SEQ_2_SEQ_LM": "Seq2SeqLM", "CAUSAL_LM": "CausalLM", "SEQ_CLS": "SequenceClassification"}
HEADS |= {"TOKEN_CLS": "TokenClassification", "QUESTION_ANS": "QuestionAnswering"}
"""The head of the Auto class that an adapter of a task is for."""


def is_adapter(folder: Path) -> bool:
    """True if a folder holds an adapter alone."""
    return (folder / ADAPTER).is_file() and not (folder / "config.json").is_file()


def stage_adapter(
    source: Path,
    folder: Path,
    repo_id: str,
    api: HfApi,
    languages: Sequence[str] | None = None,
    license: str | None = None,
) -> None:
    """Write what the repository of an adapter will hold into a new `folder`, after the adapter was put on its base.

    The base is fetched from the Hub that `api` asks; no code of it is trusted, for this package has its classes.

    Raises:
        FileNotFoundError, ValueError: the adapter is not whole, does not fit its base, or that is no model of ours on
            the Hub.
        ImportError: PEFT is not installed.
    """
    try:
        from peft import PeftModel
    except ImportError:
        raise ImportError("an adapter needs the package peft: pip install peft") from None
    config: Any = read_json(source / ADAPTER) or {}
    if not (isinstance(config, dict) and isinstance(config.get("auto_mapping") or {}, dict)):
        raise ValueError(f"{source / ADAPTER} is not as PEFT writes it; save the adapter again")
    base_id = hub_id(config.get("base_model_name_or_path"))
    if base_id is None or "/" not in base_id:
        found = f"base_model_name_or_path is {config.get('base_model_name_or_path')!r}"
        raise ValueError(f"{source / ADAPTER}: {found}; push the base first, and put its id, user/name, there")
    if not (source / WEIGHTS).is_file():
        raise FileNotFoundError(f"{source} has no {WEIGHTS}; save the adapter as safetensors, by `save_pretrained`")
    patterns = ["*.json", "*.safetensors", "*.txt"]
    base = Path(api.snapshot_download(base_id, revision=config.get("revision"), allow_patterns=patterns))
    try:
        base_config = load_config(base)
        auto_class = auto_class_of(base_config)
    except ValueError as error:
        raise ValueError(f"{source / ADAPTER}: its base {base_id} is no model of this package: {error}") from None
    if head := HEADS.get(config.get("task_type") or ""):
        auto_class = f"AutoModelFor{head}"
    if base_class := (config.get("auto_mapping") or {}).get("base_model_class"):
        base_config.architectures = [base_class]
        auto_class = auto_class_of(base_config)
    references = {name: reference.split(".")[1] for name, reference in base_config.family_auto_map.items()}
    if auto_class not in references:
        raise ValueError(
            f"{source / ADAPTER}: task_type is {config.get('task_type')!r}, which {base_id} has no head for"
        )
    try:
        labels = count_labels(source / WEIGHTS)
        options = {"num_labels": labels} if labels else {}
        model = getattr(hf_vanilla, references[auto_class]).from_pretrained(base, local_files_only=True, **options)
        adapted = PeftModel.from_pretrained(model, str(source))
        keys = adapted.load_adapter(str(source), "default")
    except (ValueError, RuntimeError, KeyError, TypeError, SafetensorError, OSError) as error:
        raise ValueError(f"{source} does not fit its base {base_id}: {oneline(error)[:300]}") from None
    if wrong := [*keys.missing_keys, *keys.unexpected_keys]:
        raise ValueError(f"{source} does not fit its base {base_id}: {wrong[0]} is missing, or not expected")
    for name, weight in adapted.named_parameters():
        if not weight.isfinite().all():
            raise ValueError(f"{source}: {name} holds values that are not finite numbers")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (ADAPTER, WEIGHTS):
        shutil.copyfile(source / name, folder / name)
    has_tokenizer = (source / "tokenizer_config.json").is_file()
    if has_tokenizer:
        AutoTokenizer.from_pretrained(source, local_files_only=True).save_pretrained(folder)
    task = PIPELINES[auto_class]
    peft_type = oneline(config.get("peft_type") or "adapter")
    data = ModelCardData(
        language=list(languages or []) or None,
        license=license,
        library_name="peft",
        pipeline_tag=task,
        tags=[peft_type.lower(), "transformers", "hf_vanilla", "attention-is-all-you-need"],
        base_model=base_id,
        base_model_relation="adapter",
    )
    count = sum(weight.numel() for name, weight in adapted.named_parameters() if ".default" in name)
    ModelCard.from_template(
        data,
        template_str=read_template("adapter_card.md"),
        name=repo_id.split("/")[-1],
        base_id=base_id,
        kind=plain(peft_type),
        does=task.replace("-", " "),
        parameters=f"{count:,}",
        usage=usage_of(
            repo_id=repo_id,
            base_id=base_id,
            base_revision=literal(config["revision"]) if config.get("revision") else "",
            tokenizer_id=repo_id if has_tokenizer else base_id,
            labels=labels,
            config=base_config,
            auto_class=auto_class,
            pipeline_tag=task,
            library="peft",
            example=literal(example_of(first_text(read_samples(source)), task)),
        ),
    ).save(folder / CARD)


def count_labels(weights: Path) -> int | None:
    """Return how many labels the head has that an adapter brings; None without one."""
    with safe_open(weights, "pt") as opened:
        for name in opened.keys():
            if re.search(r"\.(classifier|score)(\.out_proj)?\.weight$", name):
                return int(opened.get_slice(name).get_shape()[0])
    return None
