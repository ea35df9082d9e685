"""Weights of BERT, RoBERTa, DistilBERT, GPT-2, Marian, BART and `torch.nn.Transformer` in, and back out to the classes
of transformers.

What corresponds to what is data, in `key_maps.py`; [`Plan`] follows it in either direction, a tensor at a time.
"""

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from hf_vanilla.conversion.formats import (
    FORMATS,
    GPT2,
    HIDDEN_DIMENSION,
    IMPOSSIBLE,
    MARIAN,
    ROBERTA,
    TORCH_HEADS,
    TORCH_NAMES,
    Format,
    Names,
    pair,
    table_of,
)
from hf_vanilla.models import modeling_vanilla, modeling_vanilla_decoder, modeling_vanilla_encoder
from hf_vanilla.models.configuration_vanilla import VanillaConfig, VanillaDecoderConfig, VanillaEncoderConfig

logger = logging.getLogger(__name__)

MODULES = (modeling_vanilla, modeling_vanilla_encoder, modeling_vanilla_decoder)
OURS: dict[str, Any] = {name: getattr(module, name) for module in MODULES for name in module.__all__}
FAMILIES = (VanillaConfig, VanillaEncoderConfig, VanillaDecoderConfig)

# Tensors


class Weights:
    """Tensors by name, in memory or in safetensors files, from which each is read when it is asked for.

    Attributes:
        shapes, dtypes: of each name.
        files: the file of each name.

    Raises:
        ValueError: for a file that is damaged, or that holds what is no floating-point number.
    """

    def __init__(self, tensors: dict[str, Tensor] | None = None, files: Sequence[Path] = ()):
        self.tensors = tensors or {}
        self.files: dict[str, Path] = {}
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        self.dtypes: dict[str, Any] = {name: tensor.dtype for name, tensor in self.tensors.items()}
        for file in files:
            try:
                with safe_open(file, "pt") as opened:
                    for name in opened.keys():
                        self.files[name] = file
                        self.shapes[name] = tuple(opened.get_slice(name).get_shape())
                        self.dtypes[name] = DTYPES.get(opened.get_slice(name).get_dtype())
            except SafetensorError as error:
                raise ValueError(f"{file} is no whole safetensors file: {error}") from error

    def __getitem__(self, name: str) -> Tensor:
        """The tensor, which is to be used and let go: it lies in the file, as far as that has been read."""
        if name in self.tensors:
            return self.tensors[name]
        with safe_open(self.files[name], "pt") as opened:
            return opened.get_tensor(name)


DTYPES: dict[str, Any] = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Step:
    """One source to one target; or one to three, or three to one, where theirs are fused. No source: zeros."""

    sources: list[str]
    targets: list[str]
    transposed: bool = False


@dataclass
class Plan:
    """All that a conversion does, known before any weight is read.

    Attributes:
        source: what is read.
        steps: what becomes of it.
        skeleton: the model to make, without memory.
        generation_config: its own, if it generates.
        options: further arguments of its class.
        left_behind: what has no counterpart.
        order: of the hidden dimensions, where it changes.
        new: targets that there is no source for, to be initialised.
    """

    source: Weights
    steps: list[Step]
    skeleton: Any
    generation_config: GenerationConfig | None = None
    options: dict[str, Any] = field(default_factory=dict)
    left_behind: list[str] = field(default_factory=list)
    order: Tensor | None = None
    new: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self.skeleton.state_dict().items()}
        floats = {self.source.dtypes[name] for step in self.steps for name in step.sources}
        if strange := floats - set(DTYPES.values()):
            raise ValueError(f"weights must be floating-point numbers, got {', '.join(map(str, strange))}")
        self.dtype: torch.dtype = next(iter(floats)) if len(floats) == 1 else torch.float32

    def dtype_of(self, step: Step) -> torch.dtype:
        """Of what a step makes."""
        return self.source.dtypes[step.sources[0]] if step.sources else self.dtype

    def run(self, step: Step) -> Iterator[tuple[str, Tensor]]:
        """The targets of a step, each with its tensor, which may be a view of a source."""
        if not step.sources:
            yield from ((name, torch.zeros(self.shapes[name], dtype=self.dtype)) for name in step.targets)
            return
        parts = [self.reorder(name, self.source[name]) for name in step.sources]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        whole = whole.mT if step.transposed else whole
        for name, tensor in zip(step.targets, whole.chunk(len(step.targets)), strict=True):
            yield name, tensor.reshape(self.shapes[name]).to(self.dtype_of(step))

    def reorder(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor of ours, its hidden dimension in the order that theirs has."""
        if self.order is None:
            return tensor
        axis = next((axis for pattern, axis in HIDDEN_DIMENSION if pattern.fullmatch(name)), None)
        return tensor if axis is None else tensor.index_select(axis, self.order.to(tensor.device))

    def tensors(self) -> dict[str, Tensor]:
        """All targets, in memory of their own; gradients find their way back."""
        form = torch.contiguous_format
        return {name: each.clone(memory_format=form) for step in self.steps for name, each in self.run(step)}

    def model(self) -> Any:
        """The model, in memory, ready for use."""
        with quiet():  # it would list what is `new`
            model: Any = type(self.skeleton).from_pretrained(
                None, config=self.skeleton.config, state_dict=self.tensors(), dtype=self.dtype, **self.options
            )
        if self.generation_config is not None:
            model.generation_config = self.generation_config
        model.config._name_or_path = ""  # transformers has made it "None"
        return model

    def write(self, folder: Path) -> None:
        """Writes the model into an empty folder as `save_pretrained` does, but tensor by tensor, shards for shards."""
        if self.generation_config is not None:
            self.skeleton.generation_config = self.generation_config
        with quiet():
            self.skeleton.to(self.dtype).save_pretrained(folder, state_dict={})
        for file in folder.glob("*.safetensors"):
            file.unlink()
        shards: dict[str, list[Step]] = {}
        for step in self.steps:
            first = self.source.files.get(step.sources[0]) if step.sources else None
            shards.setdefault(first.name if first else "", []).append(step)
        zeros = shards.pop("", [])
        next(iter(shards.values())).extend(zeros)
        bar = tqdm(total=len(self.steps), desc="converting", unit=" weights", delay=2, mininterval=1)
        weight_map: dict[str, str] = {}
        total = 0
        for number, steps in enumerate(shards.values(), 1):
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
            total += self.write_shard(folder / name, steps, bar)
            weight_map |= {target: name for step in steps for target in step.targets}
        bar.close()
        if len(shards) > 1:
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def write_shard(self, file: Path, steps: list[Step], bar: Any) -> int:
        """A safetensors file, whose header comes from shapes alone; returns the bytes of its tensors.

        `safetensors.torch.save_file` would want all of them in memory at once.
        """
        codes = {dtype: code for code, dtype in DTYPES.items()}
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for step in steps:
            dtype = self.dtype_of(step)
            for name in step.targets:
                start, end = end, end + torch.Size(self.shapes[name]).numel() * dtype.itemsize
                header[name] = {"dtype": codes[dtype], "shape": self.shapes[name], "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with file.open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            for step in steps:
                for _, tensor in self.run(step):
                    stream.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
                bar.update()
        return end


# From theirs to ours


def from_hf(source: Any, **fields: Any) -> Any:
    """A model of ours with the weights of another, for the same task, with the same results.

    Args:
        source: a model of BERT, RoBERTa, DistilBERT, GPT-2, Marian or BART; the folder or Hub id of one, in
            safetensors; or a `torch.nn.Transformer`, its state dict, or a safetensors file of that. Beside the names
            of `torch.nn.Transformer`, a state dict may hold `encoder.embed_tokens.weight`,
            `decoder.embed_tokens.weight` (else both are one), `lm_head.weight` (else the embeddings) and
            `lm_head.bias`; without any it becomes a [`VanillaModel`] whose embeddings are new.
        fields: of [`VanillaConfig`], for a `torch.nn.Transformer`: `num_attention_heads` and whatever else is not the
            default and cannot be told from weights. For other sources, the dropout rates.

    Returns:
        A model of one of our classes in evaluation mode, which shares no memory with the source.

    Raises:
        FileNotFoundError: there is no such folder or model.
        ValueError: for what our blocks cannot express, by the field that asks for it; for weights that are missing,
            too many or of other shapes, by their names; and for a checkpoint that is not in safetensors.
    """
    plan = plan_in(source, fields)
    say(plan)
    return plan.model()


def plan_in(source: Any, fields: dict[str, Any]) -> Plan:
    """See [`from_hf`]."""
    if isinstance(source, nn.Transformer):
        return plan_torch(Weights(source.state_dict()), {**told_by(source), **fields})
    if isinstance(source, dict):
        return plan_torch(Weights(source), fields)
    if isinstance(source, PreTrainedModel):
        config, weights = source.config, Weights(source.state_dict())
        names = [each.__name__ for each in type(source).__mro__]
        generation: Any = getattr(source, "generation_config", None)
        check_possible(config.to_dict())
    elif isinstance(source, nn.Module):
        raise ValueError(f"{type(source).__name__} is no model of transformers, and no torch.nn.Transformer")
    else:
        if Path(source).is_file():
            return plan_torch(weights_of(Path(source)), fields)
        folder = local_folder(source)
        raw = read_config(folder)
        check_possible(raw)
        config, weights = AutoConfig.from_pretrained(folder, trust_remote_code=False), weights_of(folder)
        names = raw.get("architectures") or []
        generation = read_generation_config(folder, config)
    form = FORMATS[config.model_type]
    for name, allowed in form.required.items():
        if getattr(config, name, allowed[0]) not in allowed:
            raise ValueError(f"`{name}` is {getattr(config, name)!r} in the source; these blocks need {allowed[0]!r}")
    names = names or list(form.classes)[:1]
    their_name = next((name for name in names if name in form.classes), None)
    if their_name is None:
        known = ", ".join(form.classes)
        raise ValueError(f"`architectures` is {names[0]} in the source; what can be converted is {known}")
    our_class = OURS[form.classes[their_name]]
    our_config = config_in(form, config, our_class, weights, fields)
    theirs = skeleton_of(getattr(transformers, their_name), config)
    plan = match(weights, theirs, skeleton_of(our_class, our_config), form, table_of(form, our_class))
    if plan.skeleton.can_generate():
        generation = generation or GenerationConfig.from_model_config(config)
        # Not the paper's form, by which the same number would mean something else.
        said = generation.to_dict() | {"length_penalty_form": "transformers", "_from_model_config": False}
        plan.generation_config = GenerationConfig.from_dict(said)
    return plan


def match(weights: Weights, theirs: Any, ours: Any, form: Format, table: Names) -> Plan:
    """Finds for each weight of ours theirs, under the name that the checkpoint has for it.

    Raises:
        ValueError: for weights that are missing, too many, or of other shapes.
    """
    state = theirs.state_dict(keep_vars=True)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    tied: dict[int, list[str]] = {}
    for name, tensor in state.items():
        tied.setdefault(id(tensor), []).append(name)
    groups = {name: group for group in tied.values() for name in group}
    found = {canonical(name, shapes, form): name for name in weights.shapes}

    steps, missing, misshapen, used = [], [], [], set()
    for their_name, our_names in pair(dict(ours.named_parameters()), table).items():
        present = [found[name] for name in groups[their_name] if name in found]
        if not present:
            missing.append(their_name)
            continue
        used |= set(present)
        if len(present) > 1 and any(not torch.equal(weights[present[0]], weights[name]) for name in present[1:]):
            names = " and ".join(present)
            raise ValueError(f"{names} differ, though `tie_word_embeddings` says that they are one")
        if weights.shapes[present[0]] != shapes[their_name]:
            got = list(weights.shapes[present[0]])
            misshapen.append(f"{present[0]} {got}, expected {list(shapes[their_name])}")
        steps.append(Step(present[:1], our_names, bool(re.fullmatch(form.transposed, their_name))))
    rest = [name for name in weights.shapes if name not in used]
    rest = [name for name in rest if not re.fullmatch(form.buffers, name)]
    left_behind = [name for name in rest if re.fullmatch(form.left_behind, name)]
    refuse(type(theirs).__name__, missing, [name for name in rest if name not in left_behind], misshapen)
    return Plan(weights, steps, ours, left_behind=left_behind)


def canonical(name: str, known: Iterable[str], form: Format) -> str:
    """What a class calls a weight that its checkpoint may have under the name of another class, or an older one."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))
    for candidate in (name, f"{form.base}.{name}", name.removeprefix(f"{form.base}.")):
        if candidate in known:
            return candidate
    return name


def refuse(source: str, missing: Sequence[str], extra: Sequence[str], misshapen: Sequence[str]) -> None:
    """Raises `ValueError` if there is anything in the lists."""
    problems = {"missing": missing, "too many": extra, "of another shape": misshapen}
    found = [
        f"{what}: {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        for what, names in problems.items()
        if names
    ]
    if found:
        raise ValueError(f"the weights are not those of a {source} with this configuration; {'; '.join(found)}")


def config_in(form: Format, config: Any, our_class: Any, weights: Weights, extra: dict[str, Any]) -> Any:
    """Their configuration as ours."""
    rates = ("dropout", "attention_dropout", "activation_dropout", "classifier_dropout")
    if unknown := sorted(set(extra) - set(rates)):
        raise ValueError(f"`{unknown[0]}` is what the source says; only {', '.join(rates)} can be set")
    fields: dict[str, Any] = dict(form.fixed)
    for ours, theirs in form.fields.items():
        names = (theirs,) if isinstance(theirs, str) else theirs
        values = [getattr(config, name, None) for name in names]
        if ours in rates and ours not in extra and len(set(values)) > 1:
            said = ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
            logger.warning("%s: training uses one rate of dropout, that of %s", said, names[0])
        elif ours not in rates and len(set(values)) > 1:
            said = " and ".join(f"`{name}` ({value})" for name, value in zip(names, values, strict=True))
            raise ValueError(f"{said} differ; these blocks have one `{ours}`")
        if ours == "activation_function" and values[0] not in ACT2FN:
            raise ValueError(f"`{names[0]}` is {values[0]!r}; expected one of {', '.join(ACT2FN)}")
        if values[0] is not None or ours.endswith("_id"):
            fields[ours] = values[0]
    if form is GPT2:
        fields.setdefault("intermediate_size", 4 * config.hidden_size)  # what n_inner=None means
        if our_class.__name__.endswith("SequenceClassification"):
            fields["classifier_dropout"] = 0.0
    if form is ROBERTA:  # counts from the position after padding's
        offset = config.pad_token_id + 1
        fields |= {
            "position_offset": offset,
            "max_position_embeddings": config.max_position_embeddings - offset,
        }
        if our_class.__name__.endswith("MaskedLM") and config.hidden_act != "gelu":
            raise ValueError(f"`hidden_act` is {config.hidden_act!r}; RoBERTa's masked LM head has 'gelu' in any case")
    if form.family is VanillaEncoderConfig:
        fields.setdefault("classifier_dropout", fields["dropout"])
        pooler = {f"{prefix}pooler.dense.weight" for prefix in ("", f"{form.base}.")} & set(weights.shapes)
        fields["add_pooling_layer"] = our_class.__name__.endswith("EncoderModel") and bool(pooler)
    if form.family is VanillaConfig:
        shared = getattr(config, "share_encoder_decoder_embeddings", True)
        fields["tie_word_embeddings"] = config.tie_word_embeddings and shared
        if getattr(config, "decoder_vocab_size", config.vocab_size) != config.vocab_size:
            raise ValueError(
                f"`decoder_vocab_size` ({config.decoder_vocab_size}) and `vocab_size` ({config.vocab_size}) differ; "
                "these blocks have one vocabulary"
            )
        has_head = our_class.__name__.endswith("ForConditionalGeneration")
        fields["logits_bias"] = has_head and "final_logits_bias" in weights.shapes
    return make_config(form.family, {**fields, **labels_of(config), **extra})


def make_config(family: Any, fields: dict[str, Any]) -> Any:
    """A configuration of ours; one line for what it does not allow."""
    try:
        return family(**fields)
    except StrictDataclassError as error:
        raise ValueError(str(error.__cause__ or error)) from error


def labels_of(config: Any) -> dict[str, Any]:
    """What a classifier's classes are called."""
    names = ("id2label", "label2id", "problem_type")
    return {name: value for name in names if (value := getattr(config, name, None)) is not None}


# From `torch.nn.Transformer`


def told_by(module: nn.Transformer) -> dict[str, Any]:
    """The fields of [`VanillaConfig`] that a module knows and its weights do not."""
    stacks: list[Any] = [module.encoder, module.decoder]
    kinds: list[Any] = [nn.TransformerEncoder, nn.TransformerDecoder]
    for stack, kind in zip(stacks, kinds, strict=True):
        if not isinstance(stack, kind) or not len(stack.layers):
            raise ValueError(f"this torch.nn.Transformer has no {kind.__name__} with a layer or more")
    names = {nn.functional.relu: "relu", nn.functional.gelu: "gelu", nn.functional.silu: "silu"}
    classes: dict[type, str] = {nn.ReLU: "relu", nn.GELU: "gelu", nn.SiLU: "silu"}
    told: list[dict[str, Any]] = []
    for layer in (layer for stack in stacks for layer in stack.layers):
        name = names.get(layer.activation) or classes.get(type(layer.activation))
        if name is None:
            raise ValueError(
                f"`activation` is {layer.activation}; these blocks have relu, gelu and silu for a torch module"
            )
        fields = {
            "num_attention_heads": layer.self_attn.num_heads,
            "norm_position": "pre" if layer.norm_first else "post",
            "activation_function": name,
            "dropout": layer.dropout1.p,
            "attention_dropout": layer.self_attn.dropout,
            "activation_dropout": layer.dropout.p,
        }
        told += [fields | {"layer_norm_eps": norm.eps} for norm in layer.children() if isinstance(norm, nn.LayerNorm)]
    told += [told[0] | {"layer_norm_eps": stack.norm.eps} for stack in stacks if stack.norm is not None]
    for name, value in told[0].items():
        if others := {fields[name] for fields in told} - {value}:
            raise ValueError(
                f"`{name}` is {value!r} in one layer and {others.pop()!r} in another; these blocks have one"
            )
    return told[0]


def plan_torch(weights: Weights, fields: dict[str, Any]) -> Plan:
    """See [`from_hf`]. Sizes are those of the weights."""
    shapes = weights.shapes
    first = re.compile(r"(.*?)encoder\.layers\.0\.linear1\.weight")
    prefixes = [match[1] for name in shapes if (match := first.fullmatch(name))]
    if not prefixes:
        raise ValueError(
            "the weights are not those of a torch.nn.Transformer; missing: encoder.layers.0.linear1.weight"
        )
    prefix = prefixes[0]
    if "num_attention_heads" not in fields:
        raise ValueError("`num_attention_heads` cannot be told from weights: give it, as in num_attention_heads=8")
    own = {name: name.removeprefix(prefix) for name in shapes}
    by_own = {own_name: name for name, own_name in own.items()}

    def size(name: str, axis: int) -> int:
        return shapes[by_own[name]][axis]

    depths = {
        f"{stack}_layers": len({m[1] for name in by_own if (m := re.match(rf"{stack}\.layers\.(\d+)\.", name))})
        for stack in ("encoder", "decoder")
    }
    has_embeddings = "encoder.embed_tokens.weight" in by_own
    if not depths["decoder_layers"]:
        raise ValueError("the weights are not those of a torch.nn.Transformer; missing: decoder.layers.0")
    if not has_embeddings and "vocab_size" not in fields:
        raise ValueError(
            "torch.nn.Transformer has no embeddings: add yours to the state dict as encoder.embed_tokens.weight (and "
            "decoder.embed_tokens.weight, lm_head.weight where they differ from it), or give `vocab_size` for new ones"
        )
    tied = not {"decoder.embed_tokens.weight", "lm_head.weight"} & set(by_own)
    told = {
        "hidden_size": size("encoder.layers.0.linear1.weight", 1),
        "intermediate_size": size("encoder.layers.0.linear1.weight", 0),
        **depths,
        "tie_word_embeddings": tied,
        "final_norm": "encoder.norm.weight" in by_own,
        "logits_bias": "lm_head.bias" in by_own,
        **({"vocab_size": size("encoder.embed_tokens.weight", 0)} if has_embeddings else {}),
    }
    for name, value in told.items():
        if fields.get(name, value) != value:
            raise ValueError(f"`{name}` is {fields[name]!r}, but {value!r} by the weights")
    config = make_config(VanillaConfig, {**fields, **told})
    our_class = OURS["VanillaForConditionalGeneration" if has_embeddings else "VanillaModel"]
    ours = skeleton_of(our_class, config)
    model = "model." if has_embeddings else ""
    table = (*((model + name, their) for name, their in TORCH_NAMES), *TORCH_HEADS)
    no_biases = "encoder.layers.0.linear1.bias" not in by_own
    steps, missing, misshapen, new = [], [], [], []
    expected = {name: tuple(tensor.shape) for name, tensor in ours.state_dict().items()}
    pairs = pair(dict(ours.named_parameters()), table)
    for theirs, our_names in pairs.items():
        if theirs in by_own:
            shape, own_shape = shapes[by_own[theirs]], expected[our_names[0]]
            wanted = (own_shape[0] * len(our_names), *own_shape[1:])
            if shape != wanted:
                misshapen.append(f"{by_own[theirs]} {list(shape)}, expected {list(wanted)}")
            steps.append(Step([by_own[theirs]], our_names))
        elif theirs.endswith("bias") and no_biases:
            steps.append(Step([], our_names))
        elif theirs.endswith("embed_tokens.weight") or theirs.endswith("embed_positions.weight"):
            new += our_names
        else:
            missing.append(prefix + theirs)
    if has_embeddings and new:
        missing, new = missing + [prefix + name.removeprefix(model) for name in new], []
    extra = [name for name, own_name in own.items() if own_name not in pairs]
    refuse("torch.nn.Transformer", missing, extra, misshapen)
    return Plan(weights, steps, ours, new=new)


# From ours to theirs


def to_hf(source: Any, to: str | None = None) -> Any:
    """A model of transformers' own classes with the weights of one of ours, for the same task, with the same results.

    Weights keep every bit, with one exception. Where positions are the paper's sinusoids, Marian's come in another
    order, and so do all hidden dimensions: results are then equal to rounding. What theirs has and ours has not is
    zero: the bias of the logits, token types, and what nothing reads.

    Args:
        source: a model of ours, or the folder or Hub id of one.
        to: "bert", "roberta", "distilbert", "gpt2", "marian" or "bart"; by default, the first of these that can hold
            the model.

    Raises:
        FileNotFoundError: there is no such folder or model.
        ValueError: for a configuration that theirs cannot express, by the field.
    """
    plan = plan_out(source, to)
    say(plan)
    return plan.model()


def plan_out(source: Any, to: str | None) -> Plan:
    """See [`to_hf`]."""
    if isinstance(source, PreTrainedModel):
        config: Any = source.config
        weights, generation = Weights(source.state_dict()), getattr(source, "generation_config", None)
        names = [each.__name__ for each in type(source).__mro__]
    else:
        folder = local_folder(source)
        config, weights = AutoConfig.from_pretrained(folder, trust_remote_code=False), weights_of(folder)
        names = read_config(folder).get("architectures") or []
        generation = read_generation_config(folder, config)
    family = next((each for each in FAMILIES if each.model_type == config.model_type), None)
    if family is None:
        raise ValueError(f"`model_type` is {config.model_type!r}; only models of hf_vanilla go back out")
    if to is not None and to not in FORMATS:
        raise ValueError(f"`to` is {to!r}; expected one of {', '.join(FORMATS)}")
    reasons = {}
    for kind, form in FORMATS.items():
        if form.family is family and to in (None, kind):
            reason = unfit(form, config, names)
            if reason is None:
                return make_plan_out(kind, config, weights, names, generation)
            reasons[kind] = reason
    if not reasons:
        raise ValueError(f"`to` is {to!r}, but a {config.model_type} model is of another family")
    raise ValueError("; ".join(f"{kind} cannot hold it: {reason}" for kind, reason in reasons.items()))


def unfit(form: Format, config: Any, names: list[str]) -> str | None:
    """Why theirs cannot hold a model of ours; None if it can."""
    if not set(names) & set(form.classes.values()):
        return f"`architectures` is {names[0] if names else None}; expected one of {', '.join(form.classes.values())}"
    width = config.hidden_size // config.num_attention_heads
    fixed = {**form.fixed, "qk_head_dim": width, "v_head_dim": width, "final_norm": config.norm_position == "pre"}
    if form is ROBERTA:
        fixed["position_offset"] = (config.pad_token_id or 0) + 1
        if any(name.endswith("MaskedLM") for name in names):
            fixed["activation_function"] = "gelu"
    for name, value in fixed.items():
        own = getattr(config, name)
        if own is None and name in ("qk_head_dim", "v_head_dim", "final_norm"):
            continue
        if name == "position_embedding_type" and (own, value) == ("sinusoidal", "sinusoidal_halves"):
            continue
        if own != value:
            return f"`{name}` is {own!r}, and there always {value!r}"
    return None


def make_plan_out(kind: str, config: Any, weights: Weights, names: list[str], generation: Any) -> Plan:
    """See [`to_hf`]."""
    form = FORMATS[kind]
    our_name = next(name for name in names if name in form.classes.values())
    their_name = next(theirs for theirs, ours in form.classes.items() if ours == our_name)
    our_class, their_class = OURS[our_name], getattr(transformers, their_name)
    their_config = config_out(form, config, their_class)
    has_choice = their_name in ("BertModel", "RobertaModel")
    options = {"add_pooling_layer": config.add_pooling_layer} if has_choice else {}
    theirs = skeleton_of(their_class, their_config, **options)
    ours = skeleton_of(our_class, config)
    shapes = {name: tuple(tensor.shape) for name, tensor in ours.state_dict().items()}
    pairs = pair(dict(ours.named_parameters()), table_of(form, our_class))
    missing = [name for group in pairs.values() for name in group if name not in weights.shapes]
    misshapen = [
        f"{name} {list(weights.shapes[name])}, expected {list(shape)}"
        for name, shape in shapes.items()
        if name in weights.shapes and weights.shapes[name] != shape
    ]
    refuse(our_name, missing, [name for name in weights.shapes if name not in shapes], misshapen)
    steps = [Step(own, [name], bool(re.fullmatch(form.transposed, name))) for name, own in pairs.items()]
    state = theirs.state_dict(keep_vars=True)
    covered = {id(state[name]) for name in pairs}
    for name, tensor in state.items():
        if id(tensor) not in covered and not (form is MARIAN and name.endswith("embed_positions.weight")):
            if not re.fullmatch(form.without, name):
                raise ValueError(f"{name} has no counterpart among our weights")
            steps.append(Step([], [name]))
    order = None
    if config.position_embedding_type == "sinusoidal":
        order = torch.arange(config.hidden_size).view(-1, 2).T.flatten()
    plan = Plan(weights, steps, theirs, options=options, order=order)
    if theirs.can_generate() and generation is not None:
        plan.generation_config = GenerationConfig.from_dict(
            {name: value for name, value in generation.to_dict().items() if name != "length_penalty_form"}
        )
    return plan


def config_out(form: Format, config: Any, their_class: Any) -> Any:
    """Our configuration as theirs."""
    fields: dict[str, Any] = {}
    for ours, theirs in form.fields.items():
        fields |= dict.fromkeys((theirs,) if isinstance(theirs, str) else theirs, getattr(config, ours))
    if "type_vocab_size" in fields:
        fields["type_vocab_size"] = max(1, fields["type_vocab_size"])
    if form is ROBERTA:
        fields["max_position_embeddings"] += config.position_offset
    if form is MARIAN:
        fields["share_encoder_decoder_embeddings"] = config.tie_word_embeddings
    if form.family is VanillaConfig:
        fields["forced_eos_token_id"] = None
    names = their_class.config_class.attribute_map
    return their_class.config_class(
        **{names.get(name, name): value for name, value in fields.items()}, **labels_of(config)
    )


# Files


def convert(
    source: str | Path, folder: str | Path, to: str | None = None, overwrite: bool = False, **fields: Any
) -> str:
    """Convert a checkpoint into a folder, in either direction: see [`from_hf`] and [`to_hf`].

    A tensor at a time goes from file to file; peak memory is that of the largest. Tokenizer, generation configuration,
    label names and, for sentence-transformers, its modules come along. The folder is there complete or not at all.

    Args:
        source: folder or Hub id, or a safetensors file of a `torch.nn.Transformer`.
        folder: where it goes.
        to: see [`to_hf`], for models of ours.
        overwrite: whether to replace a model that is there.
        fields: see [`from_hf`].

    Returns:
        A line about what was done.

    Raises:
        FileExistsError: there is something in the folder, and `overwrite` was not given, or it is no model.
        FileNotFoundError, ValueError: see [`from_hf`] and [`to_hf`].
    """
    from hf_vanilla.training.checkpointing import new_folder

    source, folder = str(source), Path(folder)
    if Path(source).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{folder} is or holds the source: give another folder")
    with new_folder(folder, overwrite) as unfinished:
        origin = Path(source) if Path(source).is_file() else local_folder(source)
        ours = origin.is_dir() and read_config(origin)["model_type"] in [family.model_type for family in FAMILIES]
        if not ours:
            if to is not None:
                raise ValueError(f"`to` is {to!r}, but {source} is no model of ours to take out")
            plan = plan_in(origin, fields)
        elif fields:
            raise ValueError(f"`{next(iter(fields))}`: the fields of a model of ours are those that it has")
        else:
            plan = plan_out(origin, to)
        if plan.new:
            raise ValueError(
                "a file of weights needs embeddings: add encoder.embed_tokens.weight to it, and where they differ "
                "from that, decoder.embed_tokens.weight and lm_head.weight"
            )
        say(plan)
        carried = [] if origin.is_file() else carry_along(origin, unfinished)
        plan.write(unfinished)
    what = f"{type(plan.skeleton).__name__}, {len(plan.shapes)} weights"
    return ", ".join([what, *carried])


def say(plan: Plan) -> None:
    """Reports what a plan does not carry over."""
    if plan.left_behind:
        logger.warning("left behind, for no class of ours has it: %s", ", ".join(plan.left_behind))
    if plan.new:
        logger.warning("new, for the source does not have it: %s", ", ".join(plan.new))


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "source.spm")
SENTENCE_FILES = ("config_sentence_transformers.json", "sentence_bert_config.json", "modules.json")


def carry_along(source: Path, folder: Path) -> list[str]:
    """Writes the tokenizer, and what sentence-transformers wants beside a model; returns what was there.

    Raises:
        ValueError: for a tokenizer that cannot be loaded, and modules that are not in safetensors.
    """
    carried = []
    if any((source / name).is_file() for name in TOKENIZER_FILES):
        try:
            AutoTokenizer.from_pretrained(source, trust_remote_code=False).save_pretrained(folder)
        except Exception as error:  # tokenizers have errors of many kinds for files that are not theirs
            reason = f"its tokenizer cannot be loaded: {' '.join(str(error).split())}"
            raise ValueError(f"{source}: {reason}; install what it needs, or leave its files out") from error
        carried.append("its tokenizer")
    if (source / "modules.json").is_file():
        modules = json.loads((source / "modules.json").read_text(encoding="utf-8"))
        for name in SENTENCE_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        for path in filter(None, (module.get("path") for module in modules)):
            own = source / path
            if not own.resolve().is_relative_to(source.resolve()):
                raise ValueError(f"{source / 'modules.json'}: {path!r} leads out of the folder")
            if (own / "pytorch_model.bin").exists() and not (own / "model.safetensors").exists():
                raise ValueError(f"{own / 'pytorch_model.bin'}: {PICKLE}")
            (folder / path).mkdir(parents=True, exist_ok=True)
            for name in ("config.json", "model.safetensors"):
                if (own / name).is_file():
                    shutil.copyfile(own / name, folder / path / name)
        carried.append("modules for sentence-transformers")
    return carried


PICKLE = (
    "a pickle can run code when it is read, so it is not. Where you trust it, load it with the class of its task and "
    "save it again, as in AutoModelForSeq2SeqLM.from_pretrained(NAME).save_pretrained(FOLDER): that writes safetensors"
)


def local_folder(source: str | Path) -> Path:
    """The folder of a checkpoint, or of what the Hub has under this id: configurations, safetensors, tokenizer.

    Raises:
        FileNotFoundError: there is neither.
    """
    if Path(source).is_dir():
        return Path(source)
    patterns = ["*.json", "*.txt", "*.model", "*.spm", "*.jinja", "model*.safetensors", "*_*/model.safetensors"]
    try:
        return Path(snapshot_download(str(source), allow_patterns=patterns, ignore_patterns=["onnx/*", "openvino/*"]))
    except (OSError, HFValidationError) as error:
        raise FileNotFoundError(f"{source}: no such folder, and no model on the Hub that can be reached") from error


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a folder.

    Raises:
        FileNotFoundError, ValueError: there is none, or it is no JSON object.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; a checkpoint has a config.json beside its weights")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ValueError(f"{file} has no `model_type`, which says what the model is")
    return config


def check_possible(config: dict[str, Any]) -> None:
    """Raises `ValueError` for a configuration that asks for what our blocks do not have, or is of no known type."""
    kind = config["model_type"]
    reason = None
    for what, names in IMPOSSIBLE.items():
        for name in names:
            if config.get(name):
                reason = reason or f"`{name}` asks for {what}, which these blocks do not have"
    position = config.get("position_embedding_type")
    if position not in (None, "absolute"):
        reason = f"`position_embedding_type` is {position!r}; these blocks have absolute positions"
    heads = config.get("num_attention_heads")
    if config.get("num_key_value_heads", heads) != heads:
        reason = reason or "`num_key_value_heads` asks for shared keys and values, which these blocks do not have"
    if reason or kind not in FORMATS:
        known = f"`model_type` is {kind!r}; what can be converted is {', '.join(FORMATS)}, and torch.nn.Transformer"
        raise ValueError(f"{kind}: {reason}" if reason else known)


def read_generation_config(folder: Path, config: Any) -> GenerationConfig:
    """What the checkpoint says, or else what its configuration implies."""
    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder)
    return GenerationConfig.from_model_config(config)


def weights_of(path: Path) -> Weights:
    """Those of a safetensors file, or of a folder with one or several.

    Raises:
        FileNotFoundError: a shard is missing, or all are.
        ValueError: the checkpoint is a pickle, or damaged.
    """
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ValueError(f"{path}: not a safetensors file, and {PICKLE}")
        return Weights(files=[path])
    index = path / "model.safetensors.index.json"
    if (path / "model.safetensors").is_file():
        return Weights(files=[path / "model.safetensors"])
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{index} is no index of weights: {error!r}") from error
        for name in names:
            if not (path / name).is_file():
                raise FileNotFoundError(f"{path / name}: no such file, but {index.name} names it")
        return Weights(files=[path / name for name in names])
    pickles = [*path.glob("*.bin"), *path.glob("*.pt"), *path.glob("*.ckpt"), *path.glob("*.h5")]
    if pickles:
        raise ValueError(f"{pickles[0]}: {PICKLE}")
    missing = f"{path / 'model.safetensors'}: no such file, nor an index of several"
    raise FileNotFoundError(f"{missing}. If there is a pytorch_model.bin alone: {PICKLE}")


def skeleton_of(model_class: Any, config: PreTrainedConfig, **options: Any) -> Any:
    """A model without memory, for names and shapes."""
    with torch.device("meta"), quiet():
        return model_class(config, **options)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what transformers reports about models and files, but for errors."""
    said = transformers.utils.logging
    level, has_bars = said.get_verbosity(), said.is_progress_bar_enabled()
    said.set_verbosity_error()
    said.disable_progress_bar()
    try:
        yield
    finally:
        said.set_verbosity(level)
        if has_bars:
            said.enable_progress_bar()
