"""Tables, for both directions, of which weight and field of each other library's model is which of ours."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from hf_vanilla.models.configuration_vanilla import VanillaConfig, VanillaDecoderConfig, VanillaEncoderConfig

Names = tuple[tuple[str, str], ...]
"""Rows of our name and theirs. `{qkv}` in ours alone: they fuse the three into one weight, q above k above v."""
Fields = dict[str, tuple[str, ...]]
"""For each field of our configuration, their fields, which must all have the same value."""

PLACEHOLDERS = {"stack": "encoder|decoder", "n": r"\d+", "qkv": "[qkv]", "p": "weight|bias"}


@dataclass(frozen=True)
class Format:
    """How a model type of transformers corresponds to one of our families.

    Attributes:
        family, base: our configuration class, and their `base_model_prefix`.
        classes: their classes, and ours for the same task; where two become one, the way back leads to the first.
        fixed: values that our fields must have, for their architecture implies them.
        names, heads: weights of the base model, and of the heads, where names start at the whole model.
        required: values that their fields without a counterpart in our configuration must have.
        transposed: pattern of their matrices that are stored (in, out).
        zero: pattern of their weights that our model may lack; zeros then have the same effect.
        left_behind: pattern of their weights that no class of ours has.
        ignored: pattern of their buffers, and of second names of tied weights.
    """

    family: type[PreTrainedConfig]
    base: str
    classes: dict[str, str]
    fields: Fields
    fixed: dict[str, Any]
    names: Names
    heads: Names
    required: dict[str, bool] = field(default_factory=dict)
    transposed: str = ""
    zero: str = ""
    left_behind: str = ""
    ignored: str = ""


def rows(ours: str, theirs: str, *names: tuple[str, str]) -> Names:
    """Return rows for modules with weights and biases, whose names start with the prefixes `ours` and `theirs`."""
    return tuple((f"{ours}{own}.{{p}}", f"{theirs}{their}.{{p}}") for own, their in names)


def same(*names: str) -> Fields:
    """Return the table of fields that both configurations give the same name."""
    return {name: (name,) for name in names}


TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")
COMMON = same("vocab_size", "hidden_size", "max_position_embeddings", "tie_word_embeddings", *TOKEN_IDS)
STACK = COMMON | same("num_hidden_layers", "num_attention_heads", "initializer_range")
LIKE_BERT: dict[str, Any] = {"norm_position": "post", "position_embedding_type": "learned", "embedding_norm": True}
LIKE_BERT |= {"scale_embedding": False}
BERT_EMBEDDINGS = (
    *rows("", "embeddings.", ("embed_tokens", "word_embeddings"), ("embed_positions", "position_embeddings")),
    *rows("", "embeddings.", ("embed_token_types", "token_type_embeddings"), ("embedding_norm", "LayerNorm")),
)
BERT_NAMES = (
    *BERT_EMBEDDINGS,
    ("layers.{n}.self_attention.q_proj.{p}", "encoder.layer.{n}.attention.self.query.{p}"),
    ("layers.{n}.self_attention.k_proj.{p}", "encoder.layer.{n}.attention.self.key.{p}"),
    ("layers.{n}.self_attention.v_proj.{p}", "encoder.layer.{n}.attention.self.value.{p}"),
    ("layers.{n}.self_attention.o_proj.{p}", "encoder.layer.{n}.attention.output.dense.{p}"),
    ("layers.{n}.self_attention_norm.{p}", "encoder.layer.{n}.attention.output.LayerNorm.{p}"),
    ("layers.{n}.feed_forward.linear1.{p}", "encoder.layer.{n}.intermediate.dense.{p}"),
    ("layers.{n}.feed_forward.linear2.{p}", "encoder.layer.{n}.output.dense.{p}"),
    ("layers.{n}.feed_forward_norm.{p}", "encoder.layer.{n}.output.LayerNorm.{p}"),
    ("pooler.dense.{p}", "pooler.dense.{p}"),
)
TASKS = ("MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice")
ENCODER_HEADS = ("Model", *(f"For{task}" for task in TASKS))
COMMON_HEADS = rows(
    "", "", ("classifier", "classifier"), ("qa_outputs", "qa_outputs"), ("score.out_proj", "classifier")
)

BERT = Format(
    family=VanillaEncoderConfig,
    base="bert",
    classes={f"Bert{head}": f"VanillaEncoder{head}" for head in ENCODER_HEADS}
    | {"BertForPreTraining": "VanillaEncoderForMaskedLM"},
    fields=STACK
    | same("intermediate_size", "classifier_dropout", "type_vocab_size", "layer_norm_eps")
    | {"activation_function": ("hidden_act",), "dropout": ("hidden_dropout_prob",)}
    | {"attention_dropout": ("attention_probs_dropout_prob",)},
    fixed={**LIKE_BERT, "position_offset": 0, "classifier_activation": "tanh"},
    names=BERT_NAMES,
    heads=(
        *rows("transform.", "cls.predictions.transform.", ("dense", "dense"), ("norm", "LayerNorm")),
        *rows("", "", ("lm_head", "cls.predictions.decoder"), ("classifier.out_proj", "classifier")),
        *rows("", "bert.pooler.", ("classifier.dense", "dense"), ("score.dense", "dense")),
        *COMMON_HEADS,
    ),
    required={"is_decoder": False, "add_cross_attention": False},
    zero=r".*token_type_embeddings\.weight|cls\.predictions\.bias",
    left_behind=r"(bert\.)?pooler\..*|cls\.seq_relationship\..*",
    ignored=r".*\.(position_ids|token_type_ids)|cls\.predictions\.bias",
)

# The offset of its positions depends on the id of the padding token, so it is no fixed value.
ROBERTA = replace(
    BERT,
    base="roberta",
    classes={f"Roberta{head}": f"VanillaEncoder{head}" for head in ENCODER_HEADS},
    fixed={**LIKE_BERT, "classifier_activation": "tanh"},
    heads=(
        *rows("", "lm_head.", ("transform.dense", "dense"), ("transform.norm", "layer_norm"), ("lm_head", "decoder")),
        *rows("classifier.", "classifier.", ("dense", "dense"), ("out_proj", "out_proj")),
        *rows("score.", "roberta.pooler.", ("dense", "dense")),
        *COMMON_HEADS,
    ),
    zero=r".*token_type_embeddings\.weight|lm_head\.bias",
    left_behind=r"(roberta\.)?pooler\..*",
    ignored=r".*\.(position_ids|token_type_ids)|lm_head\.bias",
)

DISTILBERT = Format(
    family=VanillaEncoderConfig,
    base="distilbert",
    classes={f"DistilBert{head}": f"VanillaEncoder{head}" for head in ENCODER_HEADS},
    fields=STACK
    | same("dropout", "attention_dropout")
    | {"intermediate_size": ("hidden_dim",), "activation_function": ("activation",)}
    | {"classifier_dropout": ("seq_classif_dropout",)},
    fixed=LIKE_BERT
    | {"position_offset": 0, "type_vocab_size": 0, "add_pooling_layer": False}
    | {"layer_norm_eps": 1e-12, "classifier_activation": "relu"},
    names=(
        *BERT_EMBEDDINGS,
        ("layers.{n}.self_attention.{qkv}_proj.{p}", "transformer.layer.{n}.attention.{qkv}_lin.{p}"),
        ("layers.{n}.self_attention.o_proj.{p}", "transformer.layer.{n}.attention.out_lin.{p}"),
        ("layers.{n}.self_attention_norm.{p}", "transformer.layer.{n}.sa_layer_norm.{p}"),
        *rows("layers.{n}.feed_forward.", "transformer.layer.{n}.ffn.", ("linear1", "lin1"), ("linear2", "lin2")),
        ("layers.{n}.feed_forward_norm.{p}", "transformer.layer.{n}.output_layer_norm.{p}"),
    ),
    heads=(
        *rows("transform.", "vocab_", ("dense", "transform"), ("norm", "layer_norm")),
        *rows("", "", ("lm_head", "vocab_projector"), ("classifier.out_proj", "classifier")),
        *rows("", "", ("classifier.dense", "pre_classifier"), ("score.dense", "pre_classifier")),
        *COMMON_HEADS,
    ),
    ignored=r".*\.position_ids",
)

GPT2 = Format(
    family=VanillaDecoderConfig,
    base="transformer",
    classes={"GPT2Model": "VanillaDecoderModel", "GPT2LMHeadModel": "VanillaDecoderForCausalLM"}
    | {f"GPT2For{task}": f"VanillaDecoderFor{task}" for task in ("SequenceClassification", "TokenClassification")},
    fields=STACK
    | same("activation_function", "use_cache")
    | {"dropout": ("resid_pdrop", "embd_pdrop"), "attention_dropout": ("attn_pdrop",)}
    | {"layer_norm_eps": ("layer_norm_epsilon",), "intermediate_size": ("n_inner",)},
    fixed=LIKE_BERT | {"norm_position": "pre", "position_offset": 0, "embedding_norm": False},
    names=(
        *rows("", "", ("embed_tokens", "wte"), ("embed_positions", "wpe"), ("norm", "ln_f")),
        *rows("layers.{n}.self_attention.", "h.{n}.attn.", ("{qkv}_proj", "c_attn"), ("o_proj", "c_proj")),
        *rows("layers.{n}.feed_forward.", "h.{n}.mlp.", ("linear1", "c_fc"), ("linear2", "c_proj")),
        *rows("layers.{n}.", "h.{n}.", ("self_attention_norm", "ln_1"), ("feed_forward_norm", "ln_2")),
    ),
    heads=tuple((name, name) for name in ("lm_head.weight", "score.weight", "classifier.{p}")),
    required={"add_cross_attention": False, "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
    transposed=r".*\.c_\w+\.weight",
    ignored=r".*\.attn\.(masked_)?bias",
)

SEQ2SEQ_FIXED = {"norm_position": "post", "layer_norm_eps": 1e-5}
EMBEDDINGS = rows("{stack}.", "{stack}.", ("embed_tokens", "embed_tokens"), ("embed_positions", "embed_positions"))
LAYER = "{stack}.layers.{n}."
SEQ2SEQ_NAMES = (
    *EMBEDDINGS,
    ("{stack}.embedding_norm.{p}", "{stack}.layernorm_embedding.{p}"),
    *rows(f"{LAYER}self_attention.", f"{LAYER}self_attn.", ("{qkv}_proj", "{qkv}_proj"), ("o_proj", "out_proj")),
    *rows(f"{LAYER}cross_attention.", f"{LAYER}encoder_attn.", ("{qkv}_proj", "{qkv}_proj"), ("o_proj", "out_proj")),
    *rows(LAYER, LAYER, ("self_attention_norm", "self_attn_layer_norm"), ("feed_forward_norm", "final_layer_norm")),
    *rows(LAYER, LAYER, ("cross_attention_norm", "encoder_attn_layer_norm")),
    *rows(f"{LAYER}feed_forward.", LAYER, ("linear1", "fc1"), ("linear2", "fc2")),
)

MARIAN = Format(
    family=VanillaConfig,
    base="model",
    classes={"MarianModel": "VanillaModel", "MarianMTModel": "VanillaForConditionalGeneration"},
    fields=COMMON
    | same("encoder_layers", "decoder_layers", "activation_function", "scale_embedding", "decoder_start_token_id")
    | same("dropout", "attention_dropout", "activation_dropout", "use_cache")
    | {"num_attention_heads": ("encoder_attention_heads", "decoder_attention_heads")}
    | {"intermediate_size": ("encoder_ffn_dim", "decoder_ffn_dim"), "initializer_range": ("init_std",)},
    fixed={**SEQ2SEQ_FIXED, "position_embedding_type": "sinusoidal_halves", "embedding_norm": False},
    names=SEQ2SEQ_NAMES,
    heads=(("lm_head.weight", "lm_head.weight"), ("lm_head.bias", "final_logits_bias")),
    required={"is_decoder": False},
    zero=r"final_logits_bias",
    ignored=r".*\.embed_positions\.weight|model\.shared\.weight",
)

BART = replace(
    MARIAN,
    classes={"BartModel": "VanillaModel", "BartForConditionalGeneration": "VanillaForConditionalGeneration"},
    fixed={**SEQ2SEQ_FIXED, "position_embedding_type": "learned", "position_offset": 2, "embedding_norm": True},
    zero=r"final_logits_bias|(model\.)?shared\.weight",
    ignored=r".*\.version|(model\.)?shared\.weight",
)

MODEL_FORMATS = {
    "bert": BERT,
    "roberta": ROBERTA,
    "distilbert": DISTILBERT,
    "gpt2": GPT2,
    "marian": MARIAN,
    "bart": BART,
}
"""By `model_type`, in the order in which `to_hf` tries them."""

# `torch.nn.Transformer` has neither embeddings nor an output projection; a state dict may add them under our names.
TORCH_NAMES = (
    *EMBEDDINGS,
    (f"{LAYER}self_attention.{{qkv}}_proj.{{p}}", f"{LAYER}self_attn.in_proj_{{p}}"),
    (f"{LAYER}cross_attention.{{qkv}}_proj.{{p}}", f"{LAYER}multihead_attn.in_proj_{{p}}"),
    *rows(LAYER, LAYER, ("self_attention.o_proj", "self_attn.out_proj"), ("self_attention_norm", "norm1")),
    *rows(LAYER, LAYER, ("cross_attention.o_proj", "multihead_attn.out_proj"), ("cross_attention_norm", "norm2")),
    *rows(f"{LAYER}feed_forward.", LAYER, ("linear1", "linear1"), ("linear2", "linear2")),
    ("encoder.layers.{n}.feed_forward_norm.{p}", "encoder.layers.{n}.norm2.{p}"),
    ("decoder.layers.{n}.feed_forward_norm.{p}", "decoder.layers.{n}.norm3.{p}"),
    ("{stack}.norm.{p}", "{stack}.norm.{p}"),
)

# The fields by which a configuration asks for what our blocks do not have.
UNSUPPORTED: dict[str, tuple[str, ...]] = {
    "relative positions": ("relative_attention_num_buckets", "relative_attention", "relative_pos_enc"),
    "rotary positions": ("rope_parameters", "rope_theta", "rope_scaling", "rotary_dim", "rotary_pct"),
    "positions as biases (ALiBi)": ("alibi",),
    "gated feed-forward networks": ("is_gated_act", "is_glu_act", "use_gated_mlp"),
    "mixtures of experts": ("num_experts", "num_local_experts"),
    "quantised weights": ("quantization_config",),
}

# The dimension of our weights that counts hidden units, by patterns of their names.
HIDDEN_DIMENSION = (
    (re.compile(r".*(embed_tokens|lm_head|[qkv]_proj|linear1)\.weight"), 1),
    (re.compile(r".*(o_proj|linear2|norm)\.(weight|bias)"), 0),
)


def check_supported(config: dict[str, Any]) -> None:
    """Raise `ValueError` for a configuration of an unknown type, or with a field for what our blocks do not have."""
    kind, heads = config["model_type"], config.get("num_attention_heads")
    position = config.get("position_embedding_type")
    if position not in (None, "absolute"):
        raise ValueError(f"{kind}: `position_embedding_type` is {position!r}; these blocks have absolute positions")
    asked = {name: what for what, names in UNSUPPORTED.items() for name in names if config.get(name)}
    if config.get("num_key_value_heads", heads) != heads:
        asked["num_key_value_heads"] = "shared keys and values"
    if name := next(iter(asked), None):
        raise ValueError(f"{kind}: `{name}` asks for {asked[name]}, which these blocks do not have")
    if kind not in MODEL_FORMATS:
        known = f"what can be converted is {', '.join(MODEL_FORMATS)}, and torch.nn.Transformer"
        raise ValueError(f"`model_type` is {kind!r}; {known}")


def pair_names(ours: Iterable[str], table: Names) -> dict[str, list[str]]:
    """Return, for each of their weights, the names of ours that it holds: one, or those of q, k and v."""
    groups = {name: f"(?P<{name}>{allowed})" for name, allowed in PLACEHOLDERS.items()}
    patterns = [(re.compile(own.replace(".", r"\.").format(**groups)), theirs) for own, theirs in table]
    pairs: dict[str, list[str]] = {}
    for name in ours:
        found = ((expression.fullmatch(name), theirs) for expression, theirs in patterns)
        counterpart = next((theirs.format(**match.groupdict()) for match, theirs in found if match), None)
        if counterpart is None:
            raise ValueError(f"{name} has no counterpart among their weights")
        pairs.setdefault(counterpart, []).append(name)
    return pairs


def pair_weights(form: Format, model: PreTrainedModel) -> dict[str, list[str]]:
    """Return, for each of their weights, the names of those of our `model`; see [`pair_names`]."""
    # A model with a head keeps the weights of its base model under a prefix.
    prefixes = (f"{model.base_model_prefix}.", f"{form.base}.") if "For" in type(model).__name__ else ("", "")
    table = (*((prefixes[0] + ours, prefixes[1] + theirs) for ours, theirs in form.names), *form.heads)
    return pair_names(dict(model.named_parameters()), table)
