"""A twin: the weights of a model as the class of transformers that computes the same, which needs no code of ours."""

import copy
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import ModelCard, ModelCardData
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_vanilla.conversion.convert import plan_from_ours
from hf_vanilla.conversion.transformers_js import GRAPHS, export_to_transformers_js
from hf_vanilla.hub.model_card import (
    CARD,
    MODULES,
    auto_class_of,
    example_of,
    literal,
    oneline,
    read_json,
    read_samples,
)
from hf_vanilla.models.generation_vanilla import beam_search
from hf_vanilla.models.texts_vanilla import encode_texts

SENTENCES, LONGEST, TOLERANCE = 100, 20, 1e-4
"""How many sentences a twin is checked on, their most tokens, and by how much its logits may differ."""
OURS: dict[str, Any] = {"custom_generate": beam_search, "length_penalty_form": "transformers"}
"""The arguments by which our search follows the rules of transformers' own."""


def answer(model: Any, inputs: dict[str, Tensor], length: int, **search: Any) -> dict[str, Tensor]:
    """Return what a model makes of `inputs`: its logits or hidden states, or, for a `length`, the tokens of its greedy
    and its beam search. This very text is also run where `hf_vanilla` cannot be imported."""
    with torch.no_grad():
        if not length:
            outputs = {name: value for name, value in model(**inputs).items() if torch.is_tensor(value)}
            logits = {name: value.contiguous() for name, value in outputs.items() if "logits" in name}
            return logits or {"last_hidden_state": outputs["last_hidden_state"].contiguous()}
        options = {"max_new_tokens": length, "min_length": 0, "do_sample": False, "num_return_sequences": 1} | search
        options |= {"return_dict_in_generate": False, "output_attentions": False, "output_hidden_states": False}
        searched = [model.generate(**inputs, num_beams=beams, **options).contiguous() for beams in (1, 4)]
        return dict(zip(("tokens by greedy search", "tokens by beam search"), searched, strict=True))


# This program loads a folder as a stranger to this package would, trusts no code, and writes down what it computes.
STRANGER = f"""
import json, sys
sys.modules["hf_vanilla"] = None  # importing it raises ImportError
from typing import Any
import torch, transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

{inspect.getsource(answer)}
transformers.utils.logging.set_verbosity_error()
folder, given, found, auto_class, lengths = sys.argv[1:]
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
model = getattr(transformers, auto_class).from_pretrained(folder, dtype="float32").eval()
tensors, results = load_file(given), dict()
for number, length in enumerate(json.loads(lengths)):
    prefix = str(number) + "."
    inputs = dict((name[len(prefix):], tensors[name]) for name in tensors if name.startswith(prefix))
    results.update((prefix + name, value) for name, value in answer(model, inputs, length).items())
save_file(results, found)
print(json.dumps([len(tokenizer), tokenizer(sys.stdin.read()).input_ids]))
"""


def name_twin(source: Path, repo_id: str) -> str:
    """Return the repository of a model's twin, such as `user/name-marian`.

    Raises:
        FileNotFoundError, ValueError: there is no such model, or it has no twin; the error names the field.
    """
    if (source / MODULES).is_file():
        raise ValueError(f"{source} has no twin: `{MODULES}` makes it a model of sentence-transformers")
    plan = plan_from_ours(source, None)
    if plan.order is not None and not plan.skeleton.can_generate():
        raise ValueError(
            f"{source} has no twin: {type(plan.skeleton).__name__} has the hidden units in another order, and "
            "`architectures` names no class with a head, whose outputs would be equal"
        )
    return f"{repo_id}-{plan.skeleton.config.model_type}"


def stage_twin(
    staged: Path, folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, repo_id: str, twin_id: str
) -> None:
    """Write the twin of a `model`, which lies `staged`, into a new `folder`: weights and configuration of
    transformers' own class, tokenizer, card, and `onnx/`, which transformers.js runs.

    Its generation config is the model's, read by transformers' rules: `length_penalty_form` is no field of theirs, and
    the card says by which arguments either page gives the tokens of the other.

    Raises:
        ImportError, ValueError: what writes ONNX is not installed; see [`check_twin`]; the tokenizer has a vocabulary
            for each side.
    """
    if "target_rules" in tokenizer.init_kwargs:
        raise ValueError(f"{repo_id} has no twin: its tokenizer has a vocabulary for each side, which takes our code")
    folder.mkdir(parents=True)
    plan_from_ours(staged, None).write(folder)
    tokenizer.save_pretrained(folder)
    check_twin(folder, model, tokenizer, staged)
    if type(model).__name__.endswith(GRAPHS):
        export_to_transformers_js(model, folder / "onnx")
    render_twin_card(staged, folder, repo_id, twin_id).save(folder / CARD)


def render_twin_card(model: Path, folder: Path, repo_id: str, twin_id: str) -> ModelCard:
    """Return the card of a twin in a `folder`, after that of its staged `model`."""
    card = ModelCard.load(model / CARD)
    config = transformers.AutoConfig.from_pretrained(folder)
    auto_class = auto_class_of(transformers.AutoConfig.from_pretrained(model))
    graphs = {"tags": ["onnx", "transformers.js"]} if (folder / "onnx").exists() else {"tags": []}
    data = ModelCardData(
        language=card.data.language,
        license=card.data.license,
        library_name="transformers",
        pipeline_tag=card.data.pipeline_tag,
        tags=[*graphs["tags"], "attention-is-all-you-need", config.model_type],
        datasets=card.data.datasets,
        base_model=repo_id,
        # The Hub's word for the same model in another format.
        base_model_relation="quantized",
        widget=card.data.get("widget"),
    )
    generation = read_json(folder / "generation_config.json") or {}
    ours = read_json(model / "generation_config.json") or {}
    texts = (row.get("source") or row.get("text") or "" for row in read_samples(model))
    text = example_of(next(texts, ""), card.data.pipeline_tag or "")
    mask = getattr(transformers.AutoTokenizer.from_pretrained(folder), "mask_token", None)
    return ModelCard.from_template(
        data,
        template_str=(files("hf_vanilla") / "templates" / "twin_card.md").read_text(encoding="utf-8"),
        name=twin_id.split("/")[-1],
        twin_id=twin_id,
        repo_id=repo_id,
        class_name=(config.architectures or [""])[0],
        auto_class=auto_class,
        pipeline_tag=card.data.pipeline_tag,
        alpha=generation.get("length_penalty", 1.0) or 0.0,
        max_new_tokens=generation.get("max_new_tokens") or 256,
        is_paper=ours.get("length_penalty_form", "paper") == "paper",
        example=literal(text.replace("<mask>", mask or "<mask>")),
        sentences=SENTENCES,
        tolerance=TOLERANCE,
        has_graphs=bool(graphs["tags"]),
    )


def check_twin(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: Path) -> None:
    """Raise `ValueError` unless a process without `hf_vanilla`, which trusts no code, gets from the twin in `folder`
    the same tokens and, to `TOLERANCE`, the same logits as `model` on 100 sentences.

    The sentences are the samples in `records`, and beyond these random tokens. Ours searches by transformers' rules
    here.
    """
    model = model if model.dtype == torch.float32 else copy.deepcopy(model).float()
    batches, lengths = batches_of(list(sentences_of(tokenizer, model, records)), model, tokenizer)
    pairs = zip(batches, lengths, strict=True)
    expected = [answer(model, batch, length, **(OURS if length else {})) for batch, length in pairs]
    auto_class = auto_class_of(model.config)
    given = {f"{number}.{name}": each for number, batch in enumerate(batches) for name, each in batch.items()}
    text = "A sentence, which both read."
    with tempfile.TemporaryDirectory() as temporary:
        paths = [Path(temporary, f"{name}.safetensors") for name in ("given", "found")]
        save_file(given, paths[0])
        hidden = ("TOKEN", "PYTHONPATH", "TRANSFORMERS_CACHE", "HF_MODULES_CACHE")
        environment = {name: value for name, value in os.environ.items() if not name.endswith(hidden)}
        environment |= {"HF_HOME": temporary, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-c", STRANGER, str(folder), *map(str, paths), auto_class, json.dumps(lengths)]
        done = subprocess.run(command, cwd=temporary, env=environment, input=text, capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            raise ValueError(f"nothing was sent: transformers cannot use the twin: {oneline(lines[-1])}")
        found = load_file(paths[1])
    if json.loads(done.stdout.splitlines()[-1]) != [len(tokenizer), tokenizer(text).input_ids]:
        raise ValueError("nothing was sent: the twin's tokenizer reads a text as other tokens")
    for number, batch in enumerate(batches):
        for name, tensor in expected[number].items():
            theirs = found[f"{number}.{name}"]
            if name.startswith("tokens"):
                same = theirs.equal(tensor)
            else:
                same = torch.allclose(theirs, tensor, rtol=TOLERANCE, atol=TOLERANCE)
            if not same:
                where = first_difference(folder, model, auto_class, batches[0] if lengths[number] else batch)
                raise ValueError(f"nothing was sent: the twin gives other {name}; what differs first is {where}")


def sentences_of(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, records: Path) -> Iterator[list[int]]:
    """Yield `SENTENCES` lists of token ids: those of the samples, sentence by sentence, and then random ones."""
    room = getattr(model.config, "max_position_embeddings", None) or 2 * LONGEST
    longest, count = min(LONGEST, room // 2), 0
    for row in read_samples(records):
        for text in re.split(r"(?<=[.!?]) ", oneline(row.get("source") or row.get("text") or "")):
            ids = encode_texts(tokenizer, text)["input_ids"][:longest]
            if ids and count < SENTENCES:
                count += 1
                yield list(ids)
    generator = torch.Generator().manual_seed(0)
    usual = sorted(set(range(min(len(tokenizer), model.config.vocab_size))) - set(tokenizer.all_special_ids))
    for number in range(SENTENCES - count):
        length = max(1, longest - 4 * (number % 5))
        yield [usual[at] for at in torch.randint(len(usual), (length,), generator=generator).tolist()]


def batches_of(
    sentences: Sequence[list[int]], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[dict[str, Tensor]], list[int]]:
    """Return the inputs of `model` for sentences, and how many tokens to generate from each: batches of equal lengths
    for its outputs, where no padding can hide a difference, and all together, padded, for its searches."""
    groups: dict[int, list[list[int]]] = {}
    for ids in sentences:
        groups.setdefault(len(ids), []).append(ids)
    batches: list[dict[str, Tensor]] = []
    for rows in groups.values():
        words = torch.tensor(rows)
        if auto_class_of(model.config) == "AutoModelForMultipleChoice":
            words = words[:, None].repeat(1, 2, 1)
        batches.append({"input_ids": words, "attention_mask": torch.ones_like(words)})
        if model.config.is_encoder_decoder:
            batches[-1]["decoder_input_ids"] = words.flip(1).contiguous()
    lengths = [0] * len(batches)
    if model.can_generate():
        batches.append(dict(tokenizer.pad({"input_ids": list(sentences)}, return_tensors="pt")))
        lengths.append(max(1, min(10, max(groups) // 2)))
    return batches, lengths


def first_difference(folder: Path, model: PreTrainedModel, auto_class: str, inputs: dict[str, Tensor]) -> str:
    """Return where the hidden states of a model and of its twin in `folder` first differ, in words."""
    twin = getattr(transformers, auto_class).from_pretrained(folder, dtype="float32").eval()
    with torch.no_grad():
        ours, theirs = (each(**inputs, output_hidden_states=True) for each in (model, twin))
    order = plan_from_ours(model, None).order
    for name in ("encoder_hidden_states", "decoder_hidden_states", "hidden_states"):
        for number, (own, other) in enumerate(zip(ours.get(name) or (), theirs.get(name) or (), strict=False)):
            own = own if order is None else own[..., order]
            if not torch.allclose(own, other, rtol=TOLERANCE, atol=TOLERANCE):
                stack = name.removesuffix("_states").removesuffix("hidden").replace("_", " ")
                return f"{stack}layer {number}" if number else f"what enters the first {stack}layer"
    return "what follows the last layer, or the search"
