"""Weights of BERT, RoBERTa, DistilBERT, GPT-2, Marian, BART and `torch.nn.Transformer` in, and out to transformers."""

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

from hf_vanilla.conversion import checkpoints
from hf_vanilla.conversion.checkpoints import Checkpoint, Plan, Step, Weights, check_weights, skeleton_of
from hf_vanilla.conversion.formats import GPT2, MARIAN, MODEL_FORMATS, ROBERTA, Format, check_supported, pair_weights
from hf_vanilla.conversion.torch_module import fields_of_module, plan_torch
from hf_vanilla.models import modeling_vanilla, modeling_vanilla_decoder, modeling_vanilla_encoder
from hf_vanilla.models.configuration_vanilla import VanillaConfig, VanillaEncoderConfig
from hf_vanilla.training.checkpointing import new_folder

logger = logging.getLogger(__name__)

Source = str | Path | PreTrainedModel | nn.Module | dict[str, Tensor]
MODULES = (modeling_vanilla, modeling_vanilla_encoder, modeling_vanilla_decoder)
OUR_CLASSES: dict[str, type[PreTrainedModel]] = {
    name: getattr(module, name) for module in MODULES for name in module.__all__
}
OUR_TYPES = {form.family.model_type for form in MODEL_FORMATS.values()}
DROPOUTS = ("dropout", "attention_dropout", "activation_dropout", "classifier_dropout")


def from_hf(source: Source, **fields: Any) -> PreTrainedModel:
    """Return a model of ours, in evaluation mode, with the weights of another, for the same task and results.

    It shares no memory with the source.

    Args:
        source: a model of BERT, RoBERTa, DistilBERT, GPT-2, Marian or BART; the folder or Hub id of one, in
            safetensors; or a `torch.nn.Transformer`, its state dict, or a safetensors file of that. Beside the names
            of `torch.nn.Transformer`, a state dict may hold `encoder.embed_tokens.weight`,
            `decoder.embed_tokens.weight` (else both are one), `lm_head.weight` (else the embeddings) and
            `lm_head.bias`; without any it becomes a [`VanillaModel`] whose embeddings are new.
        fields: of [`VanillaConfig`], for a `torch.nn.Transformer`: `num_attention_heads` and whatever else is not the
            default and cannot be told from weights. For other sources, the dropout rates.

    Raises:
        FileNotFoundError, ValueError: there is no such model; our blocks cannot express it (the error names the
            field); its weights are missing, too many or of other shapes (it names them), or not in safetensors.

    Examples:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> from hf_vanilla import from_hf
        >>> model = from_hf(GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2)))
        >>> type(model).__name__
        'VanillaDecoderForCausalLM'
    """
    return plan_from_theirs(source, fields).model()


def plan_from_theirs(source: Source, fields: dict[str, Any]) -> Plan:
    """Return the plan that [`from_hf`] carries out."""
    if isinstance(source, nn.Transformer):
        return plan_torch(Weights(source.state_dict()), fields_of_module(source) | fields)
    if isinstance(source, dict):
        return plan_torch(Weights(source), fields)
    if isinstance(source, PreTrainedModel):
        check_supported(source.config.to_dict())
    elif isinstance(source, nn.Module):
        raise ValueError(f"{type(source).__name__} is no model of transformers, and no torch.nn.Transformer")
    elif Path(source).is_file():
        return plan_torch(checkpoints.open_weights(Path(source)), fields)
    else:
        source = checkpoints.local_folder(source)
        check_supported(checkpoints.read_config(source))
    checkpoint = checkpoints.open_checkpoint(source)
    config, form = checkpoint.config, MODEL_FORMATS[checkpoint.config.model_type]
    for name, needed in form.required.items():
        if getattr(config, name, needed) != needed:
            raise ValueError(f"`{name}` is {getattr(config, name)!r} in the source; these blocks need {needed!r}")
    names = checkpoint.class_names or list(form.classes)[:1]
    their_name = next((name for name in names if name in form.classes), None)
    if their_name is None:
        known = ", ".join(form.classes)
        raise ValueError(f"`architectures` is {names[0]} in the source; what can be converted is {known}")
    our_name = form.classes[their_name]
    ours = skeleton_of(OUR_CLASSES[our_name], our_config_of(form, checkpoint, our_name, fields))
    plan = match(checkpoint.weights, skeleton_of(getattr(transformers, their_name), config), ours)
    if plan.skeleton.can_generate():
        generation = checkpoint.generation_config or GenerationConfig.from_model_config(config)
        # In the paper's form, the default of our search, the same length penalty would mean something else.
        said = generation.to_dict() | {"length_penalty_form": "transformers", "_from_model_config": False}
        plan.skeleton.generation_config = GenerationConfig.from_dict(said)
    return plan


def our_config_of(form: Format, checkpoint: Checkpoint, our_name: str, extra: dict[str, Any]) -> PreTrainedConfig:
    """Return a checkpoint's configuration for our class of a name; `extra` has dropout rates to set instead."""
    if unknown := sorted(set(extra) - set(DROPOUTS)):
        raise ValueError(f"`{unknown[0]}` is what the source says; only {', '.join(DROPOUTS)} can be set")
    config, weights, head = checkpoint.config, checkpoint.weights, our_name.partition("For")[2]
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
        fields["add_pooling_layer"] = not head and any(name.endswith("pooler.dense.weight") for name in weights.shapes)
    if form.family is VanillaConfig:
        shared = getattr(config, "share_encoder_decoder_embeddings", True)
        fields["tie_word_embeddings"] = config.tie_word_embeddings and shared
        if getattr(config, "decoder_vocab_size", config.vocab_size) != config.vocab_size:
            sizes = f"`decoder_vocab_size` ({config.decoder_vocab_size}) and `vocab_size` ({config.vocab_size})"
            raise ValueError(f"{sizes} differ; these blocks have one vocabulary")
        fields["logits_bias"] = bool(head) and "final_logits_bias" in weights.shapes
    return checkpoints.make_config(form.family, fields | labels_of(config) | extra)


def shared_fields(form: Format, config: PreTrainedConfig, extra: dict[str, Any]) -> dict[str, Any]:
    """Return our fields that their configuration has under `form.fields`; see [`our_config_of`]."""
    fields: dict[str, Any] = {}
    for ours, theirs in form.fields.items():
        values = {name: getattr(config, name, None) for name in theirs}
        first, value = next(iter(values.items()))
        if len(set(values.values())) > 1 and ours not in DROPOUTS:
            said = " and ".join(f"`{name}` ({value})" for name, value in values.items())
            raise ValueError(f"{said} differ; these blocks have one `{ours}`")
        if len(set(values.values())) > 1 and ours not in extra:
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


def match(weights: Weights, theirs: PreTrainedModel, ours: PreTrainedModel) -> Plan:
    """Return the plan that finds theirs for each weight of ours, under the name that the checkpoint has for it."""
    form = MODEL_FORMATS[theirs.config.model_type]
    state = theirs.state_dict(keep_vars=True)
    tied: dict[int, list[str]] = {}
    for name, tensor in state.items():
        tied.setdefault(id(tensor), []).append(name)
    found = {canonical_name(name, state, form): name for name in weights.shapes}
    steps: list[Step] = []
    expected, used = {}, set()
    for their_name, our_names in pair_weights(form, ours).items():
        present = [found[name] for name in tied[id(state[their_name])] if name in found]
        if not present:
            expected[their_name] = state[their_name].shape
            continue
        used |= set(present)
        first, *others = present
        if any(not torch.equal(weights[first], weights[name]) for name in others):
            raise ValueError(f"{' and '.join(present)} differ, though `tie_word_embeddings` says that they are one")
        expected[first] = state[their_name].shape
        steps.append(Step([first], our_names, bool(re.fullmatch(form.transposed, their_name))))
    rest = [name for name in weights.shapes if name not in used and not re.fullmatch(form.ignored, name)]
    left_behind = [name for name in rest if re.fullmatch(form.left_behind, name)]
    check_weights(type(theirs).__name__, weights, expected, [name for name in rest if name not in left_behind])
    return Plan(weights, steps, ours, left_behind=left_behind)


def canonical_name(name: str, known: Iterable[str], form: Format) -> str:
    """Return the name in `known` of a weight that its checkpoint may have under another class's, or an older, name."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))
    candidates = (name, f"{form.base}.{name}", name.removeprefix(f"{form.base}."))
    return next((candidate for candidate in candidates if candidate in known), name)


def to_hf(source: str | Path | PreTrainedModel, to: str | None = None) -> PreTrainedModel:
    """Return a model of transformers' own classes with the weights of one of ours, for the same task and results.

    Weights keep every bit, with one exception. Where positions are the paper's sinusoids, Marian's come in another
    order, and so do all hidden dimensions: results are then equal to rounding. What theirs has and ours has not is
    zero: the bias of the logits, token types, and what nothing reads.

    Args:
        source: a model of ours, or the folder or Hub id of one.
        to: "bert", "roberta", "distilbert", "gpt2", "marian" or "bart" (default: the first that can hold the model).

    Raises:
        FileNotFoundError, ValueError: there is no such model, or theirs cannot express it; the error names the field.

    Examples:
        >>> from hf_vanilla import VanillaConfig, VanillaForConditionalGeneration, to_hf
        >>> model = VanillaForConditionalGeneration(VanillaConfig(vocab_size=50, d_model=16, h=2, d_ff=32, N=1))
        >>> type(to_hf(model)).__name__
        'MarianMTModel'
    """
    return plan_from_ours(source, to).model()


def plan_from_ours(source: str | Path | PreTrainedModel, to: str | None) -> Plan:
    """Return the plan that [`to_hf`] carries out."""
    checkpoint = checkpoints.open_checkpoint(source)
    kind = checkpoint.config.model_type
    if kind not in OUR_TYPES:
        known = ", ".join(sorted(OUR_TYPES))
        raise ValueError(f"`model_type` is {kind!r}; what transformers' own classes compute, too, is {known}")
    if to is not None and to not in MODEL_FORMATS:
        raise ValueError(f"`to` is {to!r}; expected one of {', '.join(MODEL_FORMATS)}")
    reasons = []
    for name, form in MODEL_FORMATS.items():
        if form.family.model_type == kind and to in (None, name):
            reason = why_unfit(form, checkpoint.config, checkpoint.class_names)
            if reason is None:
                return plan_into(form, checkpoint)
            reasons.append(f"{name} cannot hold it: {reason}")
    raise ValueError("; ".join(reasons) or f"`to` is {to!r}, but a {kind} model is of another family")


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
    their_class = getattr(transformers, their_name)
    options = {"add_pooling_layer": config.add_pooling_layer} if their_name in ("BertModel", "RobertaModel") else {}
    theirs = skeleton_of(their_class, their_config_of(form, config, their_class.config_class), **options)
    ours = skeleton_of(OUR_CLASSES[our_name], config)
    needed = {*weights.shapes, *dict(ours.named_parameters())}
    expected = {name: tensor.shape for name, tensor in ours.state_dict().items() if name in needed}
    check_weights(our_name, weights, expected, [name for name in weights.shapes if name not in expected])
    pairs = pair_weights(form, ours)
    steps = [Step(group, [name], bool(re.fullmatch(form.transposed, name))) for name, group in pairs.items()]
    state = theirs.state_dict(keep_vars=True)
    covered = {id(state[name]) for name in pairs}
    for name, tensor in state.items():
        if id(tensor) not in covered and not (form is MARIAN and name.endswith("embed_positions.weight")):
            if not re.fullmatch(form.zero, name):
                raise ValueError(f"{name} has no counterpart among our weights")
            steps.append(Step([], [name]))
    plan = Plan(weights, steps, theirs, options=options)
    if config.position_embedding_type == "sinusoidal":
        # Ours alternates sines and cosines, Marian has all sines before all cosines.
        plan.order = torch.arange(config.hidden_size).view(-1, 2).T.flatten()
    if theirs.can_generate() and checkpoint.generation_config is not None:
        said = checkpoint.generation_config.to_dict()
        said.pop("length_penalty_form", None)
        plan.skeleton.generation_config = GenerationConfig.from_dict(said)
    return plan


def their_config_of(form: Format, config: PreTrainedConfig, config_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    """Return the configuration of theirs for a model of ours."""
    known = {ours: theirs for ours, theirs in form.fields.items() if hasattr(config, ours)}
    fields: dict[str, Any] = {name: getattr(config, ours) for ours, theirs in known.items() for name in theirs}
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


def convert(
    source: str | Path, folder: str | Path, to: str | None = None, overwrite: bool = False, **fields: Any
) -> str:
    """Convert a checkpoint into a folder, in either direction, and return a line about what was done.

    A tensor at a time goes from file to file; peak memory is that of the largest. Tokenizer, generation configuration,
    label names and, for sentence-transformers, its modules come along. The folder is there complete or not at all.
    [`to_hf`] explains `to`, [`from_hf`] the `fields`, and both the errors.

    Args:
        source: folder or Hub id, or a safetensors file of a `torch.nn.Transformer`.
        overwrite: whether to replace a model that is in `folder`.

    Raises:
        FileExistsError: there is something in the folder, and `overwrite` was not given, or it is no model.
    """
    source, folder = str(source), Path(folder)
    if Path(source).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{folder} is or holds the source: give another folder")
    with new_folder(folder, overwrite) as unfinished:
        origin = Path(source) if Path(source).is_file() else checkpoints.local_folder(source)
        if origin.is_dir() and checkpoints.read_config(origin)["model_type"] in OUR_TYPES:
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
        copied = checkpoints.copy_companions(origin, unfinished) if origin.is_dir() else []
        plan.write(unfinished)
    return ", ".join([f"{type(plan.skeleton).__name__}, {len(plan.shapes)} weights", *copied])
