"""The conversion of a `torch.nn.Transformer`, or of a state dict that holds the weights of one, to our classes."""

import re
from typing import Any

from torch import nn

from hf_vanilla.conversion.checkpoints import Plan, Step, Weights, check_weights, make_config, skeleton_of
from hf_vanilla.conversion.formats import TORCH_NAMES, pair_names
from hf_vanilla.models.configuration_vanilla import VanillaConfig
from hf_vanilla.models.modeling_vanilla import VanillaForConditionalGeneration, VanillaModel

ACTIVATIONS: dict[object, str] = {nn.ReLU: "relu", nn.GELU: "gelu", nn.SiLU: "silu"}
ACTIVATIONS |= {getattr(nn.functional, name): name for name in ACTIVATIONS.values()}


def fields_of_module(module: nn.Transformer) -> dict[str, Any]:
    """Return the fields of [`VanillaConfig`] that a module holds outside of its weights, the same in every layer."""
    found: list[dict[str, Any]] = []
    for stack, kind in ((module.encoder, nn.TransformerEncoder), (module.decoder, nn.TransformerDecoder)):
        if not isinstance(stack, kind) or not len(stack.layers):
            raise ValueError(f"this torch.nn.Transformer has no {kind.__name__} with a layer or more")
        layer: Any
        for layer in stack.layers:
            activation = ACTIVATIONS.get(layer.activation) or ACTIVATIONS.get(type(layer.activation))
            if activation is None:
                raise ValueError(
                    f"`activation` is {layer.activation}; these blocks have relu, gelu and silu for a torch module"
                )
            fields = {
                "num_attention_heads": layer.self_attn.num_heads,
                "norm_position": "pre" if layer.norm_first else "post",
                "activation_function": activation,
                "dropout": layer.dropout1.p,
                "attention_dropout": layer.self_attn.dropout,
                "activation_dropout": layer.dropout.p,
            }
            norms = [norm for norm in (*layer.children(), stack.norm) if isinstance(norm, nn.LayerNorm)]
            found += [fields | {"layer_norm_eps": norm.eps} for norm in norms]
    for name, value in found[0].items():
        if others := {fields[name] for fields in found} - {value}:
            raise ValueError(
                f"`{name}` is {value!r} in one layer and {others.pop()!r} in another; these blocks have one"
            )
    return found[0]


def plan_torch(weights: Weights, fields: dict[str, Any]) -> Plan:
    """Return the plan by which a state dict of `torch.nn.Transformer` becomes a model of ours; see [`from_hf`].

    All names in it may have the same prefix. `fields` of [`VanillaConfig`] are those that weights do not tell.
    """
    first = re.compile(r"(.*?)encoder\.layers\.0\.linear1\.weight")
    prefix = next((match[1] for name in weights.shapes if (match := first.fullmatch(name))), "")
    names = {name.removeprefix(prefix): name for name in weights.shapes}
    config = config_of_torch({name: weights.shapes[full] for name, full in names.items()}, fields)
    has_embeddings = "encoder.embed_tokens.weight" in names
    ours = skeleton_of(VanillaForConditionalGeneration if has_embeddings else VanillaModel, config)
    base = "model." if has_embeddings else ""
    table = (*((base + name, their) for name, their in TORCH_NAMES), ("lm_head.{p}", "lm_head.{p}"))
    pairs = pair_names(dict(ours.named_parameters()), table)
    steps: list[Step] = []
    expected, new = {}, []
    for theirs, our_names in pairs.items():
        is_missing = theirs not in names
        if is_missing and "encoder.layers.0.linear1.bias" not in names and theirs.endswith("bias"):
            steps.append(Step([], our_names))
        elif is_missing and not has_embeddings and theirs.endswith(("embed_tokens.weight", "embed_positions.weight")):
            new += our_names
        else:
            rows, *others = ours.get_parameter(our_names[0]).shape
            name = names.get(theirs, prefix + theirs)
            expected[name] = (rows * len(our_names), *others)
            steps.append(Step([name], our_names))
    extra = [full for name, full in names.items() if name not in pairs]
    check_weights("torch.nn.Transformer", weights, expected, extra)
    return Plan(weights, steps, ours, new=new)


def config_of_torch(shapes: dict[str, tuple[int, ...]], fields: dict[str, Any]) -> VanillaConfig:
    """Return our configuration of a state dict, by its names and shapes and, for what they do not tell, `fields`."""
    for first in ("encoder.layers.0.linear1.weight", "decoder.layers.0"):
        if not any(name.startswith(first) for name in shapes):
            raise ValueError(f"the weights are not those of a torch.nn.Transformer; missing: {first}")
    if "num_attention_heads" not in fields:
        raise ValueError("`num_attention_heads` cannot be told from weights: give it, as in num_attention_heads=8")
    embeddings = shapes.get("encoder.embed_tokens.weight")
    if embeddings is None and "vocab_size" not in fields:
        raise ValueError(
            "torch.nn.Transformer has no embeddings: add yours to the state dict as encoder.embed_tokens.weight (and "
            "decoder.embed_tokens.weight, lm_head.weight where they differ from it), or give `vocab_size` for new ones"
        )
    inner, hidden = shapes["encoder.layers.0.linear1.weight"]
    layers = {match[0] for name in shapes if (match := re.match(r"(encoder|decoder)\.layers\.\d+\.", name))}
    found: dict[str, Any] = {
        "hidden_size": hidden,
        "intermediate_size": inner,
        **{f"{stack}_layers": sum(layer.startswith(stack) for layer in layers) for stack in ("encoder", "decoder")},
        "tie_word_embeddings": not {"decoder.embed_tokens.weight", "lm_head.weight"} & set(shapes),
        "final_norm": "encoder.norm.weight" in shapes,
        "logits_bias": "lm_head.bias" in shapes,
    } | ({"vocab_size": embeddings[0]} if embeddings else {})
    for name, value in found.items():
        if fields.get(name, value) != value:
            raise ValueError(f"`{name}` is {fields[name]!r}, but {value!r} by the weights")
    return make_config(VanillaConfig, fields | found)
