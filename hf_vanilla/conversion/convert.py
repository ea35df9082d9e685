"""Weights of BERT, RoBERTa, DistilBERT, GPT-2, Marian, BART and `torch.nn.Transformer` in, and back out to the classes
of transformers."""

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from hf_vanilla.conversion.checkpoints import (
    Checkpoint,
    Plan,
    Step,
    Weights,
    check_weights,
    copy_companions,
    local_folder,
    make_config,
    open_checkpoint,
    open_weights,
    read_config,
    skeleton_of,
)
from hf_vanilla.conversion.formats import (
    GPT2,
    MARIAN,
    MODEL_FORMATS,
    ROBERTA,
    UNSUPPORTED,
    Format,
    Names,
    pair_names,
    table_of,
)
from hf_vanilla.conversion.torch_module import fields_of_module, plan_torch
from hf_vanilla.models import modeling_vanilla, modeling_vanilla_decoder, modeling_vanilla_encoder
from hf_vanilla.models.configuration_vanilla import VanillaBaseConfig, VanillaConfig, VanillaEncoderConfig
from hf_vanilla.training.checkpointing import new_folder

logger = logging.getLogger(__name__)

MODULES = (modeling_vanilla, modeling_vanilla_encoder, modeling_vanilla_decoder)
OUR_CLASSES: dict[str, type[PreTrainedModel]] = {
    name: getattr(module, name) for module in MODULES for name in module.__all__
}
OUR_TYPES = {form.family.model_type for form in MODEL_FORMATS.values()}
DROPOUTS = ("dropout", "attention_dropout", "activation_dropout", "classifier_dropout")

# From theirs to ours


def from_hf(
    source: str | Path | PreTrainedModel | nn.Transformer | dict[str, Tensor], **fields: Any
) -> PreTrainedModel:
    """Return a model of ours with the weights of another, for the same task, with the same results.

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
    plan = plan_from_theirs(source, fields)
    warn_of_losses(plan)
    return plan.model()


def plan_from_theirs(
    source: str | Path | PreTrainedModel | nn.Module | dict[str, Tensor], fields: dict[str, Any]
) -> Plan:
    """Return the plan that [`from_hf`] carries out."""
    if isinstance(source, nn.Transformer):
        return plan_torch(Weights(source.state_dict()), {**fields_of_module(source), **fields})
    if isinstance(source, dict):
        return plan_torch(Weights(source), fields)
    if isinstance(source, PreTrainedModel):
        check_supported(source.config.to_dict())
    elif isinstance(source, nn.Module):
        raise ValueError(f"{type(source).__name__} is no model of transformers, and no torch.nn.Transformer")
    elif Path(source).is_file():
        return plan_torch(open_weights(Path(source)), fields)
    else:
        source = local_folder(source)
        check_supported(read_config(source))
    checkpoint = open_checkpoint(source)
    config = checkpoint.config
    form = MODEL_FORMATS[config.model_type]
    for name, allowed in form.required.items():
        if getattr(config, name, allowed[0]) not in allowed:
            raise ValueError(f"`{name}` is {getattr(config, name)!r} in the source; these blocks need {allowed[0]!r}")
    names = checkpoint.class_names or list(form.classes)[:1]
    their_name = next((name for name in names if name in form.classes), None)
    if their_name is None:
        known = ", ".join(form.classes)
        raise ValueError(f"`architectures` is {names[0]} in the source; what can be converted is {known}")
    our_class = OUR_CLASSES[form.classes[their_name]]
    our_config = our_config_of(form, checkpoint, our_class, fields)
    theirs = skeleton_of(getattr(transformers, their_name), config)
    plan = match(checkpoint.weights, theirs, skeleton_of(our_class, our_config), form, table_of(form, our_class))
    if plan.skeleton.can_generate():
        generation = checkpoint.generation_config or GenerationConfig.from_model_config(config)
        # In the paper's form, the default of our search, the same length penalty would mean something else.
        said = generation.to_dict() | {"length_penalty_form": "transformers", "_from_model_config": False}
        plan.generation_config = GenerationConfig.from_dict(said)
    return plan


def check_supported(config: dict[str, Any]) -> None:
    """Raise `ValueError` for a configuration of an unknown type, or with a field for what our blocks do not have."""
    kind = config["model_type"]
    reasons = []
    if config.get("position_embedding_type") not in (None, "absolute"):
        position = config["position_embedding_type"]
        reasons.append(f"`position_embedding_type` is {position!r}; these blocks have absolute positions")
    heads = config.get("num_attention_heads")
    asked = {name: what for what, names in UNSUPPORTED.items() for name in names if config.get(name)}
    if config.get("num_key_value_heads", heads) != heads:
        asked["num_key_value_heads"] = "shared keys and values"
    reasons += [f"`{name}` asks for {what}, which these blocks do not have" for name, what in asked.items()]
    if reasons:
        raise ValueError(f"{kind}: {reasons[0]}")
    if kind not in MODEL_FORMATS:
        known = f"what can be converted is {', '.join(MODEL_FORMATS)}, and torch.nn.Transformer"
        raise ValueError(f"`model_type` is {kind!r}; {known}")


def our_config_of(
    form: Format, checkpoint: Checkpoint, our_class: type[PreTrainedModel], extra: dict[str, Any]
) -> VanillaBaseConfig:
    """Return the configuration for `our_class` of a checkpoint of theirs; `extra` has dropout rates to set instead."""
    if unknown := sorted(set(extra) - set(DROPOUTS)):
        raise ValueError(f"`{unknown[0]}` is what the source says; only {', '.join(DROPOUTS)} can be set")
    config, weights, head = checkpoint.config, checkpoint.weights, our_class.__name__.partition("For")[2]
    fields = form.fixed | shared_fields(form, config, extra)
    if form is GPT2:
        fields.setdefault("intermediate_size", 4 * config.hidden_size)  # what n_inner=None means
        if head == "SequenceClassification":
            fields["classifier_dropout"] = 0.0
    if form is ROBERTA:
        # Its positions count from the one after padding's.
        fields["position_offset"] = config.pad_token_id + 1
        fields["max_position_embeddings"] -= fields["position_offset"]
        if head == "MaskedLM" and config.hidden_act != "gelu":
            raise ValueError(f"`hidden_act` is {config.hidden_act!r}; RoBERTa's masked LM head has 'gelu' in any case")
    if form.family is VanillaEncoderConfig:
        fields.setdefault("classifier_dropout", fields["dropout"])
        pooler = {"pooler.dense.weight", f"{form.base}.pooler.dense.weight"} & set(weights.shapes)
        fields["add_pooling_layer"] = not head and bool(pooler)
    if form.family is VanillaConfig:
        shared = getattr(config, "share_encoder_decoder_embeddings", True)
        fields["tie_word_embeddings"] = config.tie_word_embeddings and shared
        if getattr(config, "decoder_vocab_size", config.vocab_size) != config.vocab_size:
            sizes = f"`decoder_vocab_size` ({config.decoder_vocab_size}) and `vocab_size` ({config.vocab_size})"
            raise ValueError(f"{sizes} differ; these blocks have one vocabulary")
        fields["logits_bias"] = bool(head) and "final_logits_bias" in weights.shapes
    return make_config(form.family, {**fields, **labels_of(config), **extra})


def shared_fields(form: Format, config: PreTrainedConfig, extra: dict[str, Any]) -> dict[str, Any]:
    """Return our fields that their configuration has under `form.fields`; see [`our_config_of`]."""
    fields: dict[str, Any] = {}
    for ours, theirs in form.fields.items():
        values = {name: getattr(config, name, None) for name in theirs}
        first, value = next(iter(values.items()))
        if len(set(values.values())) > 1:
            if ours not in DROPOUTS:
                said = " and ".join(f"`{name}` ({value})" for name, value in values.items())
                raise ValueError(f"{said} differ; these blocks have one `{ours}`")
            if ours not in extra:
                said = ", ".join(f"{name} {value}" for name, value in values.items())
                logger.warning("%s: training uses one rate of dropout, that of %s", said, first)
        if ours == "activation_function" and value not in ACT2FN:
            raise ValueError(f"`{first}` is {value!r}; expected one of {', '.join(ACT2FN)}")
        if value is not None or ours.endswith("_id"):
            fields[ours] = value
    return fields


def labels_of(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the fields that name a classifier's classes, and say which kind of problem they are for."""
    names = ("id2label", "label2id", "problem_type")
    return {name: value for name in names if (value := getattr(config, name, None)) is not None}


def match(weights: Weights, theirs: PreTrainedModel, ours: PreTrainedModel, form: Format, table: Names) -> Plan:
    """Return the plan that finds theirs for each weight of ours, under the name that the checkpoint has for it."""
    state = theirs.state_dict(keep_vars=True)
    tied: dict[int, list[str]] = {}
    for name, tensor in state.items():
        tied.setdefault(id(tensor), []).append(name)
    found = {canonical_name(name, state, form): name for name in weights.shapes}

    steps: list[Step] = []
    expected, missing, used = {}, [], set()
    for their_name, our_names in pair_names(dict(ours.named_parameters()), table).items():
        present = [found[name] for name in tied[id(state[their_name])] if name in found]
        if not present:
            missing.append(their_name)
            continue
        used |= set(present)
        first, *others = present
        if any(not torch.equal(weights[first], weights[name]) for name in others):
            names = " and ".join(present)
            raise ValueError(f"{names} differ, though `tie_word_embeddings` says that they are one")
        expected[first] = state[their_name].shape
        steps.append(Step([first], our_names, bool(re.fullmatch(form.transposed, their_name))))
    rest = [name for name in weights.shapes if name not in used and not re.fullmatch(form.ignored, name)]
    left_behind = [name for name in rest if re.fullmatch(form.left_behind, name)]
    extra = [name for name in rest if name not in left_behind]
    check_weights(type(theirs).__name__, weights, expected, missing, extra)
    return Plan(weights, steps, ours, left_behind=left_behind)


def canonical_name(name: str, known: Iterable[str], form: Format) -> str:
    """Return the name in `known` of a weight that its checkpoint may have under another class's, or an older, name."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))
    candidates = (name, f"{form.base}.{name}", name.removeprefix(f"{form.base}."))
    return next((candidate for candidate in candidates if candidate in known), name)


# From ours to theirs


def to_hf(source: str | Path | PreTrainedModel, to: str | None = None) -> PreTrainedModel:
    """Return a model of transformers' own classes with the weights of one of ours, for the same task and results.

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
    plan = plan_from_ours(source, to)
    warn_of_losses(plan)
    return plan.model()


def plan_from_ours(source: str | Path | PreTrainedModel, to: str | None) -> Plan:
    """Return the plan that [`to_hf`] carries out."""
    checkpoint = open_checkpoint(source)
    kind = checkpoint.config.model_type
    if kind not in OUR_TYPES:
        raise ValueError(f"`model_type` is {kind!r}; only models of hf_vanilla go back out")
    if to is not None and to not in MODEL_FORMATS:
        raise ValueError(f"`to` is {to!r}; expected one of {', '.join(MODEL_FORMATS)}")
    forms = {
        name: form for name, form in MODEL_FORMATS.items() if form.family.model_type == kind and to in (None, name)
    }
    if not forms:
        raise ValueError(f"`to` is {to!r}, but a {kind} model is of another family")
    reasons = {}
    for name, form in forms.items():
        reasons[name] = why_unfit(form, checkpoint.config, checkpoint.class_names)
        if reasons[name] is None:
            return plan_into(form, checkpoint)
    raise ValueError("; ".join(f"{name} cannot hold it: {reason}" for name, reason in reasons.items()))


def why_unfit(form: Format, config: PreTrainedConfig, class_names: list[str]) -> str | None:
    """Return the reason why theirs cannot hold a model of ours, or None if it can."""
    if not set(class_names) & set(form.classes.values()):
        known = ", ".join(form.classes.values())
        return f"`architectures` is {class_names[0] if class_names else None}; expected one of {known}"
    width = config.hidden_size // config.num_attention_heads
    implied = {"qk_head_dim": width, "v_head_dim": width, "final_norm": config.norm_position == "pre"}
    fixed = form.fixed | {name: value for name, value in implied.items() if getattr(config, name) is not None}
    if form is ROBERTA:
        fixed["position_offset"] = (config.pad_token_id or 0) + 1
        if any(name.endswith("MaskedLM") for name in class_names):
            fixed["activation_function"] = "gelu"
    if config.position_embedding_type == "sinusoidal" and form is MARIAN:
        del fixed["position_embedding_type"]  # the same, in another order of the hidden units
    for name, value in fixed.items():
        if getattr(config, name) != value:
            return f"`{name}` is {getattr(config, name)!r}, and there always {value!r}"
    return None


def plan_into(form: Format, checkpoint: Checkpoint) -> Plan:
    """Return the plan by which a checkpoint of ours becomes a model of theirs; see [`to_hf`]."""
    config, weights = checkpoint.config, checkpoint.weights
    our_name = next(name for name in checkpoint.class_names if name in form.classes.values())
    their_name = next(theirs for theirs, ours in form.classes.items() if ours == our_name)
    our_class, their_class = OUR_CLASSES[our_name], getattr(transformers, their_name)
    has_choice = their_name in ("BertModel", "RobertaModel")
    options = {"add_pooling_layer": config.add_pooling_layer} if has_choice else {}
    theirs = skeleton_of(their_class, their_config_of(form, config, their_class.config_class), **options)
    ours = skeleton_of(our_class, config)
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    pairs = pair_names(dict(ours.named_parameters()), table_of(form, our_class))
    missing = [name for group in pairs.values() for name in group if name not in weights.shapes]
    expected = {name: shape for name, shape in shapes.items() if name in weights.shapes}
    check_weights(our_name, weights, expected, missing, [name for name in weights.shapes if name not in shapes])
    steps = [Step(group, [name], bool(re.fullmatch(form.transposed, name))) for name, group in pairs.items()]
    state = theirs.state_dict(keep_vars=True)
    covered = {id(state[name]) for name in pairs}
    for name, tensor in state.items():
        if id(tensor) not in covered and not (form is MARIAN and name.endswith("embed_positions.weight")):
            if not re.fullmatch(form.zero, name):
                raise ValueError(f"{name} has no counterpart among our weights")
            steps.append(Step([], [name]))
    order = None
    if config.position_embedding_type == "sinusoidal":
        # Ours alternates sines and cosines, Marian has all sines before all cosines.
        order = torch.arange(config.hidden_size).view(-1, 2).T.flatten()
    plan = Plan(weights, steps, theirs, options=options, order=order)
    if theirs.can_generate() and checkpoint.generation_config is not None:
        said = checkpoint.generation_config.to_dict()
        said.pop("length_penalty_form", None)
        plan.generation_config = GenerationConfig.from_dict(said)
    return plan


def their_config_of(form: Format, config: PreTrainedConfig, config_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    """Return the configuration of theirs for a model of ours."""
    fields: dict[str, Any] = {name: getattr(config, ours) for ours, theirs in form.fields.items() for name in theirs}
    if "type_vocab_size" in fields:
        fields["type_vocab_size"] = max(1, fields["type_vocab_size"])
    if form is ROBERTA:
        fields["max_position_embeddings"] += config.position_offset
    if form is MARIAN:
        fields["share_encoder_decoder_embeddings"] = config.tie_word_embeddings
    if form.family is VanillaConfig:
        fields["forced_eos_token_id"] = None
    names = config_class.attribute_map
    return config_class(**{names.get(name, name): value for name, value in fields.items()}, **labels_of(config))


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
    source, folder = str(source), Path(folder)
    if Path(source).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{folder} is or holds the source: give another folder")
    with new_folder(folder, overwrite) as unfinished:
        origin = Path(source) if Path(source).is_file() else local_folder(source)
        if origin.is_dir() and read_config(origin)["model_type"] in OUR_TYPES:
            if fields:
                raise ValueError(f"`{next(iter(fields))}`: the fields of a model of ours are those that it has")
            plan = plan_from_ours(origin, to)
        elif to is not None:
            raise ValueError(f"`to` is {to!r}, but {source} is no model of ours to take out")
        else:
            plan = plan_from_theirs(origin, fields)
        if plan.new:
            raise ValueError(
                "a file of weights needs embeddings: add encoder.embed_tokens.weight to it, and where they differ "
                "from that, decoder.embed_tokens.weight and lm_head.weight"
            )
        warn_of_losses(plan)
        copied = copy_companions(origin, unfinished) if origin.is_dir() else []
        plan.write(unfinished)
    return ", ".join([f"{type(plan.skeleton).__name__}, {len(plan.shapes)} weights", *copied])


def warn_of_losses(plan: Plan) -> None:
    """Log which weights a conversion loses, and which it makes new."""
    if plan.left_behind:
        logger.warning("left behind, for no class of ours has it: %s", ", ".join(plan.left_behind))
    if plan.new:
        logger.warning("new, for the source does not have it: %s", ", ".join(plan.new))
