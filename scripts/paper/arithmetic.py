"""The FLOPs and the bytes of activations that a training step of our models takes, by arithmetic alone.

`plan_training.py` plans a run with it, `reproduce_arithmetic.py` the paper's training cost. One multiplication and one
addition are two FLOPs, as in `torch.utils.flop_counter`; only products of matrices count.
"""

from dataclasses import dataclass

from hf_vanilla.models.configuration_vanilla import VanillaBaseConfig
from hf_vanilla.models.fused_loss_vanilla import CLASSES, ROWS, chunk_bytes

# The number of tensors of width d_ff that an activation and the product after it keep for the backward pass.
KEPT_BY_ACTIVATION = {"relu": 1, "gelu": 2, "silu": 2, "swish": 2, "gelu_new": 5}


@dataclass(frozen=True)
class Work:
    """Positions of encoder and decoder (padding if it is computed), labels, and pairs of positions in attention."""

    source: int = 0
    target: int = 0
    labels: int = 0
    source_pairs: int = 0
    target_pairs: int = 0
    cross_pairs: int = 0
    masks: bool = False  # attention reads masks where there is padding, or more than one document in a row

    @classmethod
    def of_rows(cls, config: VanillaBaseConfig, rows: int, length: int) -> "Work":
        """Return the work of full rows: all tokens of a target are labels, 15 % of BERT's, and all but GPT's first."""
        tokens, pairs = rows * length, rows * length**2
        if config.model_type == "vanilla_encoder":
            return cls(source=tokens, source_pairs=pairs, labels=rows * max(1, round(0.15 * length)))
        if config.model_type == "vanilla_decoder":
            return cls(target=tokens, target_pairs=pairs, labels=rows * (length - 1), masks=True)
        return cls(tokens, tokens, tokens, pairs, pairs, pairs)


def depths(config: VanillaBaseConfig) -> tuple[int, int]:
    """Return the numbers of layers of encoder and decoder, 0 for a stack that the family does not have."""
    if config.is_encoder_decoder:
        return config.encoder_layers, config.decoder_layers
    own = config.num_hidden_layers
    return (own, 0) if config.model_type == "vanilla_encoder" else (0, own)


def head_widths(config: VanillaBaseConfig) -> tuple[int, int]:
    """Return h d_k and h d_v, the widths of all heads' keys and of all heads' values together."""
    heads, d = config.num_attention_heads, config.hidden_size
    return heads * (config.qk_head_dim or d // heads), heads * (config.v_head_dim or d // heads)


def forward_flops(config: VanillaBaseConfig, work: Work) -> dict[str, int]:
    """Return the FLOPs of a forward pass, by part: 2 n a b for a product of matrices (n, a) and (a, b)."""
    encoder, decoder = depths(config)
    crossing = decoder * config.is_encoder_decoder
    d, width = config.hidden_size, sum(head_widths(config))
    ends = 2 * (encoder * work.source + decoder * work.target) + crossing * (work.source + work.target)
    pairs = encoder * work.source_pairs + decoder * work.target_pairs + crossing * work.cross_pairs
    transform = d * d * (config.model_type == "vanilla_encoder")  # BERT's, before its output projection
    return {
        "attention projections": 2 * ends * d * width,
        "attention core": 2 * pairs * width,
        "feed-forward": 4 * (encoder * work.source + decoder * work.target) * d * config.intermediate_size,
        "output projection": 2 * work.labels * (d * config.vocab_size + transform),
    }


def training_flops(
    config: VanillaBaseConfig, work: Work, checkpointing: bool = False, fused_attention: bool = True
) -> int:
    """Return the FLOPs of forward and backward, where each product needs two more for the gradients of its factors.

    With `checkpointing`, layers are computed a second time; with `fused_attention` (by sdpa), so is Q K^T.
    """
    forward = forward_flops(config, work)
    layers = sum(forward.values()) - forward["output projection"]
    keys, values = head_widths(config)
    scores = forward["attention core"] * keys // (keys + values)
    return 3 * sum(forward.values()) + checkpointing * layers + fused_attention * scores


def kept_bytes(config: VanillaBaseConfig, work: Work, itemsize: int) -> tuple[int, int, int]:
    """Return the bytes that an encoder layer, a decoder layer, and all else keep for the backward pass.

    In float32 (`itemsize` 4) products and norms keep their input, attention also its output and a logarithm for each
    query and head, dropout a byte an element. Under autocast (2) sums and norms stay float32, and each product keeps
    its input as half, so that Q, K and V keep three copies of theirs. Raises a ValueError if the activation is none of
    `KEPT_BY_ACTIVATION`.
    """
    d, heads = config.hidden_size, config.num_attention_heads
    keys, values = head_widths(config)
    encoder, decoder = depths(config)
    half, dropped, norm = itemsize < 4, d * bool(config.dropout), 4 * d + 8  # a norm keeps input, mean and deviation
    if config.activation_function not in KEPT_BY_ACTIVATION:
        raise ValueError(
            f"activation_function is {config.activation_function}: what it keeps is not known; expected one of "
            + ", ".join(KEPT_BY_ACTIVATION)
        )

    # A position of a sub-layer, with residual sum and norm
    one, own = itemsize * d, dropped + norm
    attention = one * (3 if half else 1) + 2 * itemsize * (keys + values) + 4 * heads + own
    activation = KEPT_BY_ACTIVATION[config.activation_function] * itemsize
    feed_forward = one + activation * config.intermediate_size + own
    queries = one + itemsize * (keys + values) + 4 * heads + own
    encoded = itemsize * (keys + values) + 2 * one * half
    mask = itemsize * work.masks

    encoder_layer = work.source * (attention + feed_forward) + mask * work.source_pairs
    decoder_layer = work.target * (attention + feed_forward) + mask * work.target_pairs
    rest = (work.source + work.target) * (dropped + norm * bool(config.embedding_norm))
    if config.norm_position == "pre" if config.final_norm is None else config.final_norm:
        rest += (work.source + work.target) * norm
    if config.is_encoder_decoder:
        decoder_layer += work.target * queries + work.source * encoded + mask * work.cross_pairs
        rest += one * work.source * (not half)
    if config.model_type == "vanilla_encoder":
        rest += work.labels * (activation * d + norm)
    return encoder_layer, decoder_layer, rest


def activation_peak(
    config: VanillaBaseConfig, work: Work, itemsize: int, checkpointing: bool = False, gpu_memory: float = 0
) -> int:
    """Return the bytes at the peak of a step, beyond weights, their half copies, gradients and optimiser, on a GPU of
    so many bytes of memory, or for 0 on a CPU.

    The peak is in the loss, which holds a chunk of logits and the gradient of the output matrix; or at the start of
    the backward pass, in the last feed-forward network; or at an embedding, whose gradient is held beside that of the
    output matrix.
    """
    encoder, decoder = depths(config)
    d, vocabulary, inner = config.hidden_size, config.vocab_size, config.intermediate_size
    encoder_layer, decoder_layer, rest = kept_bytes(config, work, itemsize)
    if checkpointing:
        sources, again = 4 * d * encoder * work.source, decoder_layer if decoder else encoder_layer
        layers = sources + 4 * d * decoder * work.target  # what goes into each
        layers += work.masks * (work.source_pairs + work.target_pairs + work.cross_pairs)
    else:
        sources, again = encoder * encoder_layer, 0
        layers = sources + decoder * decoder_layer
    half, last = itemsize < 4, work.target or work.source
    table = 4 * vocabulary * d
    chunk = min(max(chunk_bytes(gpu_memory), vocabulary * itemsize), work.labels * vocabulary * itemsize)
    softmax = chunk * 4 // itemsize if gpu_memory else 4 * ROWS * vocabulary
    loss = rest + layers + 4 * d * last + 8 * d * work.labels + chunk + softmax + table
    if half:  # the matrix and its gradient before they are float32; on CPU some classes of it, and a float32 copy
        loss += table // 2 + (table // 2 if gpu_memory else 6 * d * min(CLASSES, vocabulary))
    # An activation that also keeps its input has freed its output when the gradient of that input is made.
    of_input = 0 if KEPT_BY_ACTIVATION[config.activation_function] > 1 else itemsize * last * inner
    network = itemsize * last * inner + max(of_input, 4 * d * inner)
    backward = rest + layers + again + table + network - last * (d if config.dropout else 0)
    embedding = sources + 2 * table + 4 * d * work.source
    return max(loss, backward, embedding)
