"""Tables that say which weight and field of BERT, RoBERTa, DistilBERT, GPT-2, Marian, BART and `torch.nn.Transformer`
is which of ours, and what our blocks do not support. The tables work in both directions."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedModel

from hf_vanilla.models.configuration_vanilla import (
    VanillaBaseConfig,
    VanillaConfig,
    VanillaDecoderConfig,
    VanillaEncoderConfig,
)

Names = tuple[tuple[str, str], ...]
"""Rows of our name and theirs. `{qkv}` in our name alone means that they fuse the three projections into one weight,
q above k above v."""
Fields = dict[str, tuple[str, ...]]
"""For each field of our configuration, their fields, which must all have the same value."""

PLACEHOLDERS = {"stack": "encoder|decoder", "n": r"\d+", "qkv": "[qkv]", "p": "weight|bias"}


@dataclass(frozen=True)
class Format:
    """How a model type of transformers corresponds to one of our families.

    Attributes:
        family: our configuration class.
        base: their `base_model_prefix`.
        classes: their classes, and ours for the same task. If two of theirs become one of ours, the way back leads to
            the first.
        fields: fields of the configurations.
        fixed: values that our fields must have, for their architecture implies them.
        names: weights of the base model.
        heads: weights of the heads; here names start at the whole model.
        required: allowed values of their fields that have no counterpart in our configuration.
        transposed: pattern of their matrices that are stored (in, out).
        zero: pattern of their weights that our model may lack; zeros then have the same effect.
        left_behind: pattern of their weights that no class of ours has.
        ignored: pattern of their buffers, and of second names of tied weights.
    """

    family: type[VanillaBaseConfig]
    base: str
    classes: dict[str, str]
    fields: Fields
    fixed: dict[str, Any]
    names: Names
    heads: Names
    required: dict[str, tuple[bool, ...]] = field(default_factory=dict)
    transposed: str = ""
    zero: str = ""
    left_behind: str = ""
    ignored: str = ""


def same(*names: str) -> Fields:
    """Return the table of fields that both configurations give the same name."""
    return {name: (name,) for name in names}


TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")
COMMON = same("vocab_size", "hidden_size", "max_position_embeddings", "tie_word_embeddings", *TOKEN_IDS)
STACK = COMMON | same("num_hidden_layers", "num_attention_heads", "initializer_range")
LIKE_BERT = {
    "norm_position": "post",
    "position_embedding_type": "learned",
    "embedding_norm": True,
    "scale_embedding": False,
}
BERT_NAMES: Names = (
    ("embed_tokens.weight", "embeddings.word_embeddings.weight"),
    ("embed_positions.weight", "embeddings.position_embeddings.weight"),
    ("embed_token_types.weight", "embeddings.token_type_embeddings.weight"),
    ("embedding_norm.{p}", "embeddings.LayerNorm.{p}"),
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
ENCODER_HEADS = ("Model", *(f"For{task}" for task in ("MaskedLM", "SequenceClassification", "TokenClassification")))
ENCODER_HEADS += ("ForQuestionAnswering", "ForMultipleChoice")
COMMON_HEADS: Names = (
    ("classifier.{p}", "classifier.{p}"),
    ("qa_outputs.{p}", "qa_outputs.{p}"),
    ("score.out_proj.{p}", "classifier.{p}"),
)

BERT = Format(
    family=VanillaEncoderConfig,
    base="bert",
    classes={f"Bert{head}": f"VanillaEncoder{head}" for head in ENCODER_HEADS}
    | {"BertForPreTraining": "VanillaEncoderForMaskedLM"},
    fields=STACK
    | same("intermediate_size", "classifier_dropout", "type_vocab_size", "layer_norm_eps")
    | {
        "activation_function": ("hidden_act",),
        "dropout": ("hidden_dropout_prob",),
        "attention_dropout": ("attention_probs_dropout_prob",),
    },
    fixed={**LIKE_BERT, "position_offset": 0, "classifier_activation": "tanh"},
    names=BERT_NAMES,
    heads=(
        ("transform.dense.{p}", "cls.predictions.transform.dense.{p}"),
        ("transform.norm.{p}", "cls.predictions.transform.LayerNorm.{p}"),
        ("lm_head.{p}", "cls.predictions.decoder.{p}"),
        ("classifier.dense.{p}", "bert.pooler.dense.{p}"),
        ("classifier.out_proj.{p}", "classifier.{p}"),
        ("score.dense.{p}", "bert.pooler.dense.{p}"),
        *COMMON_HEADS,
    ),
    required={"is_decoder": (False,), "add_cross_attention": (False,)},
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
        ("transform.dense.{p}", "lm_head.dense.{p}"),
        ("transform.norm.{p}", "lm_head.layer_norm.{p}"),
        ("lm_head.{p}", "lm_head.decoder.{p}"),
        ("classifier.dense.{p}", "classifier.dense.{p}"),
        ("classifier.out_proj.{p}", "classifier.out_proj.{p}"),
        ("score.dense.{p}", "roberta.pooler.dense.{p}"),
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
    | {
        "intermediate_size": ("hidden_dim",),
        "activation_function": ("activation",),
        "classifier_dropout": ("seq_classif_dropout",),
    },
    fixed={
        **LIKE_BERT,
        "position_offset": 0,
        "type_vocab_size": 0,
        "add_pooling_layer": False,
        "layer_norm_eps": 1e-12,
        "classifier_activation": "relu",
    },
    names=(
        ("embed_tokens.weight", "embeddings.word_embeddings.weight"),
        ("embed_positions.weight", "embeddings.position_embeddings.weight"),
        ("embedding_norm.{p}", "embeddings.LayerNorm.{p}"),
        ("layers.{n}.self_attention.{qkv}_proj.{p}", "transformer.layer.{n}.attention.{qkv}_lin.{p}"),
        ("layers.{n}.self_attention.o_proj.{p}", "transformer.layer.{n}.attention.out_lin.{p}"),
        ("layers.{n}.self_attention_norm.{p}", "transformer.layer.{n}.sa_layer_norm.{p}"),
        ("layers.{n}.feed_forward.linear1.{p}", "transformer.layer.{n}.ffn.lin1.{p}"),
        ("layers.{n}.feed_forward.linear2.{p}", "transformer.layer.{n}.ffn.lin2.{p}"),
        ("layers.{n}.feed_forward_norm.{p}", "transformer.layer.{n}.output_layer_norm.{p}"),
    ),
    heads=(
        ("transform.dense.{p}", "vocab_transform.{p}"),
        ("transform.norm.{p}", "vocab_layer_norm.{p}"),
        ("lm_head.{p}", "vocab_projector.{p}"),
        ("classifier.dense.{p}", "pre_classifier.{p}"),
        ("classifier.out_proj.{p}", "classifier.{p}"),
        ("score.dense.{p}", "pre_classifier.{p}"),
        *COMMON_HEADS,
    ),
    ignored=r".*\.position_ids",
)

GPT2 = Format(
    family=VanillaDecoderConfig,
    base="transformer",
    classes={
        "GPT2Model": "VanillaDecoderModel",
        "GPT2LMHeadModel": "VanillaDecoderForCausalLM",
        "GPT2ForSequenceClassification": "VanillaDecoderForSequenceClassification",
        "GPT2ForTokenClassification": "VanillaDecoderForTokenClassification",
    },
    fields=STACK
    | same("activation_function", "use_cache")
    | {
        "dropout": ("resid_pdrop", "embd_pdrop"),
        "attention_dropout": ("attn_pdrop",),
        "layer_norm_eps": ("layer_norm_epsilon",),
        "intermediate_size": ("n_inner",),
    },
    fixed={
        "norm_position": "pre",
        "position_embedding_type": "learned",
        "position_offset": 0,
        "embedding_norm": False,
        "scale_embedding": False,
    },
    names=(
        ("embed_tokens.weight", "wte.weight"),
        ("embed_positions.weight", "wpe.weight"),
        ("layers.{n}.self_attention_norm.{p}", "h.{n}.ln_1.{p}"),
        ("layers.{n}.self_attention.{qkv}_proj.{p}", "h.{n}.attn.c_attn.{p}"),
        ("layers.{n}.self_attention.o_proj.{p}", "h.{n}.attn.c_proj.{p}"),
        ("layers.{n}.feed_forward_norm.{p}", "h.{n}.ln_2.{p}"),
        ("layers.{n}.feed_forward.linear1.{p}", "h.{n}.mlp.c_fc.{p}"),
        ("layers.{n}.feed_forward.linear2.{p}", "h.{n}.mlp.c_proj.{p}"),
        ("norm.{p}", "ln_f.{p}"),
    ),
    heads=(
        ("lm_head.weight", "lm_head.weight"),
        ("score.weight", "score.weight"),
        ("classifier.{p}", "classifier.{p}"),
    ),
    required={
        "add_cross_attention": (False,),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
    },
    transposed=r".*\.c_\w+\.weight",
    ignored=r".*\.attn\.(masked_)?bias",
)

SEQ2SEQ_FIXED = {"norm_position": "post", "layer_norm_eps": 1e-5}
SEQ2SEQ_NAMES: Names = (
    ("{stack}.embed_tokens.weight", "{stack}.embed_tokens.weight"),
    ("{stack}.embed_positions.weight", "{stack}.embed_positions.weight"),
    ("{stack}.embedding_norm.{p}", "{stack}.layernorm_embedding.{p}"),
    ("{stack}.layers.{n}.self_attention.{qkv}_proj.{p}", "{stack}.layers.{n}.self_attn.{qkv}_proj.{p}"),
    ("{stack}.layers.{n}.self_attention.o_proj.{p}", "{stack}.layers.{n}.self_attn.out_proj.{p}"),
    ("{stack}.layers.{n}.self_attention_norm.{p}", "{stack}.layers.{n}.self_attn_layer_norm.{p}"),
    ("{stack}.layers.{n}.cross_attention.{qkv}_proj.{p}", "{stack}.layers.{n}.encoder_attn.{qkv}_proj.{p}"),
    ("{stack}.layers.{n}.cross_attention.o_proj.{p}", "{stack}.layers.{n}.encoder_attn.out_proj.{p}"),
    ("{stack}.layers.{n}.cross_attention_norm.{p}", "{stack}.layers.{n}.encoder_attn_layer_norm.{p}"),
    ("{stack}.layers.{n}.feed_forward.linear1.{p}", "{stack}.layers.{n}.fc1.{p}"),
    ("{stack}.layers.{n}.feed_forward.linear2.{p}", "{stack}.layers.{n}.fc2.{p}"),
    ("{stack}.layers.{n}.feed_forward_norm.{p}", "{stack}.layers.{n}.final_layer_norm.{p}"),
)

MARIAN = Format(
    family=VanillaConfig,
    base="model",
    classes={"MarianModel": "VanillaModel", "MarianMTModel": "VanillaForConditionalGeneration"},
    fields=COMMON
    | same("encoder_layers", "decoder_layers", "activation_function", "scale_embedding", "decoder_start_token_id")
    | same("dropout", "attention_dropout", "activation_dropout", "use_cache")
    | {
        "num_attention_heads": ("encoder_attention_heads", "decoder_attention_heads"),
        "intermediate_size": ("encoder_ffn_dim", "decoder_ffn_dim"),
        "initializer_range": ("init_std",),
    },
    fixed={**SEQ2SEQ_FIXED, "position_embedding_type": "sinusoidal_halves", "embedding_norm": False},
    names=SEQ2SEQ_NAMES,
    heads=(("lm_head.weight", "lm_head.weight"), ("lm_head.bias", "final_logits_bias")),
    required={"is_decoder": (False,)},
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
TORCH_NAMES: Names = (
    ("{stack}.embed_tokens.weight", "{stack}.embed_tokens.weight"),
    ("{stack}.embed_positions.weight", "{stack}.embed_positions.weight"),
    ("{stack}.layers.{n}.self_attention.{qkv}_proj.{p}", "{stack}.layers.{n}.self_attn.in_proj_{p}"),
    ("{stack}.layers.{n}.self_attention.o_proj.{p}", "{stack}.layers.{n}.self_attn.out_proj.{p}"),
    ("{stack}.layers.{n}.self_attention_norm.{p}", "{stack}.layers.{n}.norm1.{p}"),
    ("{stack}.layers.{n}.cross_attention.{qkv}_proj.{p}", "{stack}.layers.{n}.multihead_attn.in_proj_{p}"),
    ("{stack}.layers.{n}.cross_attention.o_proj.{p}", "{stack}.layers.{n}.multihead_attn.out_proj.{p}"),
    ("{stack}.layers.{n}.cross_attention_norm.{p}", "{stack}.layers.{n}.norm2.{p}"),
    ("{stack}.layers.{n}.feed_forward.linear1.{p}", "{stack}.layers.{n}.linear1.{p}"),
    ("{stack}.layers.{n}.feed_forward.linear2.{p}", "{stack}.layers.{n}.linear2.{p}"),
    ("encoder.layers.{n}.feed_forward_norm.{p}", "encoder.layers.{n}.norm2.{p}"),
    ("decoder.layers.{n}.feed_forward_norm.{p}", "decoder.layers.{n}.norm3.{p}"),
    ("{stack}.norm.{p}", "{stack}.norm.{p}"),
)
TORCH_HEADS: Names = (("lm_head.{p}", "lm_head.{p}"),)

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


def pair_names(ours: Iterable[str], table: Names) -> dict[str, list[str]]:
    """Return, for each of their weights, the names of ours that it holds: one, or those of q, k and v."""
    patterns = []
    for own, theirs in table:
        pattern = re.escape(own)
        for placeholder, allowed in PLACEHOLDERS.items():
            pattern = pattern.replace(rf"\{{{placeholder}\}}", f"(?P<{placeholder}>{allowed})")
        patterns.append((re.compile(pattern), theirs))
    pairs: dict[str, list[str]] = {}
    for name in ours:
        for expression, theirs in patterns:
            if match := expression.fullmatch(name):
                pairs.setdefault(theirs.format(**match.groupdict()), []).append(name)
                break
        else:
            raise ValueError(f"{name} has no counterpart among their weights")
    return pairs


def table_of(form: Format, our_class: type[PreTrainedModel]) -> Names:
    """Return the names of two classes: a model with a head keeps the weights of its base model under a prefix."""
    has_head = "For" in our_class.__name__
    ours, theirs = (f"{prefix}." if has_head else "" for prefix in (our_class.base_model_prefix, form.base))
    return (*((ours + own, theirs + their) for own, their in form.names), *form.heads)
