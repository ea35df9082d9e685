"""The conversion of a `torch.nn.Transformer`, or of a state dict that holds the weights of one, to our classes."""

import re
from typing import Any

from torch import nn

from hf_vanilla.conversion.checkpoints import Plan, Step, Weights, check_weights, make_config, skeleton_of
from hf_vanilla.conversion.formats import TORCH_HEADS, TORCH_NAMES, pair_names
from hf_vanilla.models.configuration_vanilla import VanillaConfig
from hf_vanilla.models.modeling_vanilla import VanillaForConditionalGeneration, VanillaModel

ACTIVATIONS: dict[object, str] = {nn.ReLU: "relu", nn.GELU: "gelu", nn.SiLU: "silu"}
ACTIVATIONS |= {getattr(nn.functional, name): name for name in ACTIVATIONS.values()}


def fields_of_module(module: nn.Transformer) -> dict[str, Any]:
    """Return the fields of [`VanillaConfig`] that a module holds outside of its weights, the same in every layer."""
    found: list[dict[str, Any]] = []
    stacks = ((module.encoder, nn.TransformerEncoder), (module.decoder, nn.TransformerDecoder))
    for stack, kind in stacks:
        if not isinstance(stack, kind) or not len(stack.layers):
            raise ValueError(f"this torch.nn.Transformer has no {kind.__name__} with a layer or more")
        layer: Any
        for layer in stack.layers:
            activation = ACTIVATIONS.get(layer.activation) or ACTIVATIONS.get(type(layer.activation))
            if activation is None:
                known = "these blocks have relu, gelu and silu for a torch module"
                raise ValueError(f"`activation` is {layer.activation}; {known}")
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
            other = f"{value!r} in one layer and {others.pop()!r} in another"
            raise ValueError(f"`{name}` is {other}; these blocks have one")
    return found[0]


def plan_torch(weights: Weights, fields: dict[str, Any]) -> Plan:
    """Return the plan by which a state dict of `torch.nn.Transformer` becomes a model of ours; see [`from_hf`].

    All names in it may have the same prefix. `fields` of [`VanillaConfig`] are those that weights do not tell.
    """
    first = re.compile(r"(.*?)encoder\.layers\.0\.linear1\.weight")
    prefix = next((match[1] for name in weights.shapes if (match := first.fullmatch(name))), "")
    # Under their names without the prefix:
    names = {name.removeprefix(prefix): name for name in weights.shapes}
    if "encoder.layers.0.linear1.weight" not in names:
        raise ValueError(
            "the weights are not those of a torch.nn.Transformer; missing: encoder.layers.0.linear1.weight"
        )
    config = config_of_torch({name: weights.shapes[full] for name, full in names.items()}, fields)
    has_embeddings = "encoder.embed_tokens.weight" in names
    ours = skeleton_of(VanillaForConditionalGeneration if has_embeddings else VanillaModel, config)
    model = "model." if has_embeddings else ""
    pairs = pair_names(
        dict(ours.named_parameters()), (*((model + name, their) for name, their in TORCH_NAMES), *TORCH_HEADS)
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in ours.state_dict().items()}
    has_biases = "encoder.layers.0.linear1.bias" in names
    steps: list[Step] = []
    expected, missing, new = {}, [], []
    for theirs, our_names in pairs.items():
        if theirs in names:
            rows, *others = shapes[our_names[0]]
            expected[names[theirs]] = (rows * len(our_names), *others)
            steps.append(Step([names[theirs]], our_names))
        elif theirs.endswith("bias") and not has_biases:
            steps.append(Step([], our_names))
        elif not has_embeddings and theirs.endswith(("embed_tokens.weight", "embed_positions.weight")):
            new += our_names
        else:
            missing.append(prefix + theirs)
    check_weights(
        "torch.nn.Transformer", weights, expected, missing, [full for name, full in names.items() if name not in pairs]
    )
    return Plan(weights, steps, ours, new=new)


def config_of_torch(shapes: dict[str, tuple[int, ...]], fields: dict[str, Any]) -> VanillaConfig:
    """Return our configuration of a state dict, by its names and shapes and, for what they do not tell, `fields`."""
    if "num_attention_heads" not in fields:
        raise ValueError("`num_attention_heads` cannot be told from weights: give it, as in num_attention_heads=8")
    if not any(name.startswith("decoder.layers.0.") for name in shapes):
        raise ValueError("the weights are not those of a torch.nn.Transformer; missing: decoder.layers.0")
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
        **({"vocab_size": embeddings[0]} if embeddings else {}),
    }
    for name, value in found.items():
        if fields.get(name, value) != value:
            raise ValueError(f"`{name}` is {fields[name]!r}, but {value!r} by the weights")
    return make_config(VanillaConfig, {**fields, **found})
