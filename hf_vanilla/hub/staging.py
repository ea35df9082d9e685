"""The folder that a push sends, and the check that it stands alone."""

import contextlib
import csv
import json
import logging
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import requires
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import SpaceCard, SpaceCardData
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import hf_vanilla
from hf_vanilla.attention.figures import plot_heads, save_figure
from hf_vanilla.attention.reader import attention_maps
from hf_vanilla.conversion.checkpoints import copy_companions
from hf_vanilla.conversion.html_page import examples_of, export_to_html
from hf_vanilla.hub import model_card
from hf_vanilla.hub.model_card import oneline, public, read_json
from hf_vanilla.hub.notebook import write_notebook
from hf_vanilla.models.generation_vanilla import beam_search
from hf_vanilla.models.texts_vanilla import encode_texts, read_special_tokens
from hf_vanilla.training.run_log import plot_curves, read_records
from hf_vanilla.training.yaml_files import write_yaml

logger = logging.getLogger(__name__)

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
GRADIO = "6.31.0"
"""The version of gradio that the Space was tested with."""
STAND_ALONE = re.compile(r"(torch|transformers|tokenizers|safetensors)[<>=~!]")
"""The packages that a checkpoint needs where `hf_vanilla` is not installed."""
SEARCH: dict[str, float] = {"num_beams": 2, "max_new_tokens": 5, "do_sample": False, "num_return_sequences": 1}
SEARCH |= dict.fromkeys(("return_dict_in_generate", "output_attentions", "output_hidden_states"), False)
"""The search by which tokens are compared, whatever a model's own generation config says."""
# This program loads a folder as a stranger to this package would, through every Auto class that its configuration
# names, and compares what the model and its search give. It is given nothing but what `push` has just written.
CHECK = """
import json, sys
from pathlib import Path
sys.modules["hf_vanilla"] = None  # importing it raises ImportError
import torch, transformers
from safetensors.torch import load_file
from transformers.dynamic_module_utils import get_class_from_dynamic_module

transformers.utils.logging.set_verbosity_error()
folder, expected = Path(sys.argv[1]), load_file(sys.argv[2])
inputs = {name.removeprefix("input."): tensor for name, tensor in expected.items() if name.startswith("input.")}
outputs = {name.removeprefix("output."): tensor for name, tensor in expected.items() if name.startswith("output.")}
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
config = json.loads((folder / "config.json").read_text())
for name in config["auto_map"]:
    if name == "AutoConfig":
        continue
    model = getattr(transformers, name).from_pretrained(folder, trust_remote_code=True).eval()
    if name == sys.argv[3]:
        with torch.no_grad():
            given = model(**inputs)
        for output, tensor in outputs.items():
            torch.testing.assert_close(given[output].float(), tensor, msg=lambda text: f"{output} differs: {text}")
        if "tokens" in expected:
            found = model.generate(inputs["input_ids"], **json.loads(sys.argv[4]))
            assert found.equal(expected["tokens"]), f"generate gives {found.tolist()}"
        for task, info in config.get("custom_pipelines", {}).items():
            pipeline = get_class_from_dynamic_module(info["impl"], folder)(model, tokenizer=tokenizer, task=task)
            assert pipeline("a", max_new_tokens=5), f"the pipeline {task} gives nothing"
"""


def load_model_and_tokenizer(source: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a folder's model and tokenizer, or raise `FileNotFoundError` or `ValueError` if they are not whole."""
    config = model_card.load_config(source)
    model_card.auto_class_of(config)
    check_weight_files(source)
    architecture, options = (config.architectures or [""])[0], {"output_loading_info": True, "local_files_only": True}
    try:
        model, loading = getattr(hf_vanilla, architecture).from_pretrained(source, dtype="auto", **options)
    except Exception as error:  # of many libraries
        raise ValueError(f"{source}: its weights do not load: {oneline(error)}") from None
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading[problem]:
            names = ", ".join(sorted(map(str, loading[problem]))[:3])
            raise ValueError(f"{source}: the weights are not those of {architecture}, {problem}: {names}")
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise ValueError(f"{source}: {name} holds values that are not finite numbers")
    try:
        tokenizer = read_special_tokens(AutoTokenizer.from_pretrained(source, local_files_only=True))
    except Exception as error:
        raise ValueError(f"{source} has no tokenizer that loads; save it there: {oneline(error)}") from None
    for name in tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else ():
        if Path(name).name != name:
            raise ValueError(f"{source}: the tokenizer has a chat template named {name!r}, which is no name of a file")
    if (last := max(tokenizer.get_vocab().values(), default=-1)) >= config.vocab_size:
        sizes = f"the tokenizer has ids up to {last}, the model {config.vocab_size} embeddings"
        raise ValueError(f"{source}: {sizes}: one of them is of another model")
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        own, theirs = getattr(config, name, None), getattr(tokenizer, name)
        if own is not None and theirs is not None and own != theirs:
            raise ValueError(f"{source}: {name} is {own} in config.json, and {theirs} in the tokenizer")
    return model.eval(), tokenizer


def check_weight_files(source: Path) -> None:
    """Raise `FileNotFoundError` or `ValueError` if a folder's weights are not safetensors files directly in it."""
    for index in source.glob("*.index.json"):
        for name in set((read_json(index) or {}).get("weight_map", {}).values()):
            if Path(name).name != name:
                raise ValueError(f"{index}: {name!r} is not in this folder; weights must lie beside their index")
    if not any(source.glob("*.safetensors")):
        for path in source.iterdir():
            if path.suffix in PICKLES and path.name != "training_args.bin":
                what = f"{source} has its weights in {path.name}, a pickle, which may run code when it is loaded"
                raise ValueError(f"{what}: save them as safetensors, `model.save_pretrained(...)`, where you trust it")
        raise FileNotFoundError(f"{source} has no weights: expected model.safetensors")


def stage(
    source: Path, folder: Path, repo_id: str, max_shard_size: str = "5GB", **card: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Write all that a repository will hold, and no more, into a new `folder`; return model and tokenizer.

    `card` has `languages`, `license`, `space` and `twin`, if they are given, for [`model_card.render_card`].
    """
    model, tokenizer = load_model_and_tokenizer(source)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    tokenizer.save_pretrained(folder)
    is_sentence_model = (source / model_card.MODULES).is_file()
    if is_sentence_model:
        check_modules(source / model_card.MODULES)
        copy_companions(source, folder)
    for name in (model_card.CURVES, model_card.SAMPLES):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    if evaluations := model_card.current_evaluations(source):
        # Saved anew, the same weights may lie in other files.
        own = {"weights": model_card.weights_digest(folder)}
        model_card.write_record(
            folder / model_card.EVALUATION, [scores | {"set": public(scores["set"])} | own for scores in evaluations]
        )
    if summary := read_json(source / model_card.SUMMARY):
        for part in {"configuration", "arguments"} & set(summary):
            summary[part] = {name: public(value) for name, value in summary[part].items()}
        if command := summary.get("command"):
            # Of an absolute path its last part alone is for others.
            outside = r"(^|=)(?:[~/]|\.\.?[/\\]|file:|[A-Za-z]:[/\\]).*[/\\]"
            summary["command"] = shlex.join(re.sub(outside, r"\1", word) for word in shlex.split(command))
        if emissions := read_emissions(source):
            summary["emissions"] = emissions
        model_card.write_record(folder / model_card.SUMMARY, summary)
        if "configuration" in summary:
            text = write_yaml(summary["configuration"])
            (folder / model_card.CONFIG).write_text(text, encoding="utf-8")
    with contextlib.suppress(ValueError):  # a text that cannot be drawn is no reason not to push
        draw_attention(model, tokenizer, source, folder / model_card.ATTENTION)
    if (source / "log.jsonl").is_file():
        plot_curves(read_records(source / "log.jsonl"), folder / model_card.CURVES_DARK, theme="dark")
    write_requirements(folder, *(["sentence-transformers"] if is_sentence_model else []))
    write_widget(model, tokenizer, folder)
    if not is_sentence_model:
        write_notebook(folder, repo_id)
    model_card.render_card(folder, repo_id, **card).save(folder / model_card.CARD)
    return model, tokenizer


def check_modules(path: Path) -> None:
    """Raise `ValueError` unless a `modules.json` has the model in its own folder, and no code but that of
    sentence-transformers after it."""
    modules: Any = read_json(path) or []
    if not (isinstance(modules, list) and all(isinstance(module, dict) for module in modules)):
        raise ValueError(f"{path} is no list of modules; save the model by sentence-transformers again")
    for number, module in enumerate(modules):
        if not str(module.get("type")).startswith("sentence_transformers."):
            raise ValueError(f"{path}: type is {module.get('type')!r}; expected a module of sentence_transformers")
        if bool(module.get("path")) == (number == 0):
            raise ValueError(f"{path}: path is {module.get('path')!r}; only the first module is the folder's own")
    if not modules:
        raise ValueError(f"{path} names no modules; save the model by sentence-transformers again")


def read_emissions(run: Path) -> dict[str, Any] | None:
    """Return what CodeCarbon measured of a run, in grams of CO2 equivalents: from the `emissions.csv` that it, or its
    callback of transformers, left in the run's folder; None without one."""
    path = run / "emissions.csv"
    if not path.is_file():
        return None
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = {row["run_id"]: row for row in csv.DictReader(file)}  # the last of each, which has its total
        if not all(run_id and row["country_name"] is not None for run_id, row in rows.items()):
            raise ValueError("a row has no run_id, or ends before its country")
        grams = round(1000 * sum(float(row["emissions"]) for row in rows.values()), 3)
        countries = sorted({row["country_name"] for row in rows.values()} - {""})
        if not (rows and math.isfinite(grams) and grams > 0):
            raise ValueError("it has no emissions of a milligram or more")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not as CodeCarbon writes it: {oneline(error)}; mend it or remove it") from None
    return {"grams": grams} | ({"location": ", ".join(map(oneline, countries))} if countries else {})


def write_widget(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Record what a language model makes of a few texts, for the examples of its page's widget: the likeliest words
    for a mask, or how it goes on with a text, greedily. The texts are from the samples in `folder`."""
    task = model_card.PIPELINES[model_card.auto_class_of(model.config)]
    if task not in ("fill-mask", "text-generation"):
        return
    examples: list[dict[str, Any]] = []
    for sample in model_card.read_samples(folder)[:3]:
        text = model_card.example_of(sample["text"], task).replace("<mask>", tokenizer.mask_token or "<mask>")
        batch = encode_texts(tokenizer, [text], masks=True, return_tensors="pt")
        with torch.no_grad():
            if task == "text-generation":
                generate: Any = model.generate
                tokens = generate(**batch, max_new_tokens=20, do_sample=False, num_beams=1, num_return_sequences=1)
                output: Any = {"text": oneline(tokenizer.decode(tokens[0], skip_special_tokens=True))}
            else:
                place = (batch["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0, 0]
                likeliest = model(**batch).logits[0, place].softmax(-1).topk(5)
                pairs = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
                output = [{"label": oneline(tokenizer.decode([i])), "score": round(score, 4)} for i, score in pairs]
        examples.append({"text": text, "output": output})
    if examples:
        model_card.write_record(folder / model_card.WIDGET, examples)


def write_requirements(folder: Path, *others: str) -> None:
    """Write what pip must install for the code in a folder, with the lower bounds of this package."""
    needed = [line for line in requires("hf_vanilla") or [] if STAND_ALONE.match(line)]
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in (*needed, *others)), encoding="utf-8")


def draw_attention(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, run: Path, picture: Path) -> None:
    """Draw the heads of the last layer on the shortest sample of a run, or on 16 words of it, if it has samples: as
    `picture`, and beside it for pages that are dark."""
    rows = model_card.read_samples(run)
    if rows and getattr(model.config, "attention_type", None) != "none":
        row = min(rows, key=lambda row: len(row.get("source") or row["text"]))
        text = row.get("source") or " ".join(row["text"].split()[:16])
        maps = attention_maps(model, tokenizer, text, row.get("translation") or row.get("target"))
        try:
            for theme, name in (("light", picture.name), ("dark", model_card.ATTENTION_DARK)):
                save_figure(plot_heads(list(maps.kinds.values())[-1], theme=theme), picture.with_name(name))
        except ImportError as error:
            logger.warning("no %s: %s", picture.name, error)


def check_stands_alone(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `ValueError` unless a process without `hf_vanilla` loads `folder` by each Auto class, to equal results."""
    auto_class = model_card.auto_class_of(model.config)
    torch.manual_seed(0)
    choices = (2,) if auto_class == "AutoModelForMultipleChoice" else ()
    words = torch.randint(min(len(tokenizer), model.config.vocab_size), (2, *choices, 7))
    inputs = {"input_ids": words, "attention_mask": torch.ones_like(words)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = words[:, :5].contiguous()
    expected = {f"input.{name}": tensor for name, tensor in inputs.items()}
    with torch.no_grad():
        outputs = {name: value for name, value in model(**inputs).items() if isinstance(value, torch.Tensor)}
        expected |= {f"output.{name}": value.float().contiguous() for name, value in outputs.items()}
        if model.can_generate():
            generate: Any = model.generate
            expected["tokens"] = generate(words, custom_generate=beam_search, **SEARCH)
    with tempfile.TemporaryDirectory() as temporary:
        tensors = Path(temporary, "expected.safetensors")
        save_file(expected, tensors)
        # It needs neither the network nor a token, and is to find no module but those of the folder.
        hidden = ("TOKEN", "PYTHONPATH", "TRANSFORMERS_CACHE", "HF_MODULES_CACHE")
        environment = {name: value for name, value in os.environ.items() if not name.endswith(hidden)}
        environment |= {"HF_HOME": temporary, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-c", CHECK, str(folder), str(tensors), auto_class, json.dumps(SEARCH)]
        checked = subprocess.run(command, cwd=temporary, env=environment, capture_output=True, text=True)
    if checked.returncode:
        lines = checked.stderr.strip().splitlines() or ["no reason given"]
        raise ValueError(f"nothing was sent: loaded without hf_vanilla, it fails: {oneline(lines[-1])}")


def write_space(app: Path, model: Path, repo_id: str, commit: str, license: str | None, twin: str = "") -> None:
    """Write a Space that shows the staged `model` at one commit into a new folder `app`.

    The package is part of the Space, so that it needs to trust no code but its own; with the repository of a `twin`,
    of which `commit` then is, the Space takes transformers alone.
    """
    package = Path(str(files("hf_vanilla")))
    app.mkdir(parents=True)
    backend = "with_transformers.py" if twin else "with_package.py"
    for name, template in (("app.py", "app.py"), ("backend.py", backend)):
        shutil.copyfile(package / "templates" / "space" / template, app / name)
    if not twin:
        ignored = shutil.ignore_patterns("templates", "__pycache__")
        shutil.copytree(package, app / "hf_vanilla", ignore=ignored)
    examples = sorted((row["source"] for row in model_card.read_samples(model)), key=len)[:3]
    is_language = model_card.Records(model).pipeline_tag == "translation"
    shown = {"model": twin or repo_id, "revision": commit, "examples": examples, "is_language": is_language}
    model_card.write_record(app / "model.json", shown)
    write_requirements(app, "matplotlib")
    does = "Translates with" if is_language else "Runs"
    write_space_card(app, repo_id, license, does, sdk="gradio", sdk_version=GRADIO, app_file="app.py", twin=twin)


def write_static_space(
    app: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    repo_id: str,
    license: str | None,
) -> None:
    """Write a Space that is one page, which runs a staged model in the reader's browser, into a new folder `app`; the
    examples are the samples that lie in the model's `folder`. It raises as [`export_to_html`]."""
    app.mkdir(parents=True)
    name, examples = repo_id.split("/")[-1], examples_of(folder, tokenizer, type(model).__name__)
    export_to_html(model, tokenizer, app / "index.html", title=name, examples=examples)
    write_space_card(app, repo_id, license, "Runs in your browser:", sdk="static", app_file="index.html")


def write_space_card(app: Path, repo_id: str, license: str | None, does: str, twin: str = "", **how: Any) -> None:
    """Write the page of a Space, which says what it `does` with which model."""
    models = [repo_id, twin] if twin else [repo_id]
    data = SpaceCardData(title=repo_id.split("/")[-1], license=license or "apache-2.0", models=models, **how)
    text = f"---\n{data}\n---\n{does} [{repo_id}](https://huggingface.co/{repo_id}).\n"
    SpaceCard(text).save(app / model_card.CARD)
