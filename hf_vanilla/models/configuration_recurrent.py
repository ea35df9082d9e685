"""Configuration of the recurrent encoder-decoders."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from .configuration_vanilla import TRANSLATION, FamilyConfig


@strict
class RecurrentConfig(FamilyConfig):
    r"""Configuration of a recurrent encoder-decoder, with or without attention.

    Args:
        vocab_size (`int`, defaults to 37000):
            Entries of the vocabulary.
        hidden_size (`int`, defaults to 512):
            Width of embeddings, encoder states (half of it for each direction), decoder states and output.
        encoder_layers, decoder_layers (`int`, default to 2):
            Layers of the bidirectional encoder and of the decoder; `N=...` sets both.
        cell_type (`str`, defaults to `"lstm"`):
            `"lstm"` (Sutskever et al., 2014) or `"gru"` (Cho et al., 2014).
        attention_type (`str`, defaults to `"additive"`):
            `"none"`: the source is one vector, from which the decoder starts (Sutskever; Cho et al., 2014).
            `"additive"`: scored with the previous state (Bahdanau et al., 2015). Scored with the current one (Luong et
            al., 2015): `"dot"`, `"general"`, `"concat"`, and `"local"`, general within a window.
        input_feeding (`bool`, defaults to `False`):
            Whether the attentional vector is a part of the next input (Luong et al., 2015, section 3.3).
        local_alignment (`str`, *optional*):
            Where the window of local attention is: `"monotonic"`, at the position of the target's token, or
            `"predictive"` (the default), where the model predicts it, and weighted by a Gaussian (section 3.2).
        attention_window (`int`, *optional*):
            D of local attention, which sees 2D + 1 positions; 10 by default.
        dropout (`float`, defaults to 0.1):
            On embeddings, between layers and on the output.
        tie_word_embeddings (`bool`, defaults to `True`):
            Whether source embedding, target embedding and output projection share one matrix.
        initializer_range (`float`, *optional*):
            Bound of uniform initial weights; sqrt(3 / hidden_size) if not given. Sutskever et al. 0.08, Luong 0.1.
        pad_token_id, bos_token_id, eos_token_id, decoder_start_token_id (`int`, default to 0, 1, 2 and 1):
            Special tokens; the last starts each target.
        use_cache (`bool`, defaults to `True`):
            Whether the decoder returns its states for the next step.

    Raises:
        ValueError: for values outside of their range, an odd `hidden_size`, a window or alignment without local
            attention, and input feeding where there is none to feed.
    """

    model_type = "vanilla_recurrent"
    implied: ClassVar[dict[str, tuple[Any, ...]]] = {"is_encoder_decoder": (True,)}
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = {
        "d_model": "hidden_size",
        "P_drop": "dropout",
        "num_hidden_layers": "encoder_layers",
    }
    # The decoder calls its layers at each step, and sharded weights would be gathered each time: a model stays whole.
    base_model_fsdp_plan: ClassVar[dict[str, str]] = {}
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "cell_type": ("lstm", "gru"),
        "attention_type": ("none", "additive", "dot", "general", "concat", "local"),
        "local_alignment": ("monotonic", "predictive"),
    }
    family_auto_map: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_recurrent.RecurrentConfig",
        "AutoModel": "modeling_recurrent.RecurrentModel",
        "AutoModelForSeq2SeqLM": "modeling_recurrent.RecurrentForConditionalGeneration",
    }
    family_pipelines: ClassVar[dict[str, dict[str, Any]]] = TRANSLATION

    vocab_size: int = 37000
    hidden_size: int = 512
    encoder_layers: int = 2
    decoder_layers: int = 2
    cell_type: str = "lstm"
    attention_type: str = "additive"
    input_feeding: bool = False
    local_alignment: str | None = None
    attention_window: int | None = None
    dropout: float | int = 0.1
    tie_word_embeddings: bool = True
    initializer_range: float | None = None
    is_encoder_decoder: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 1
    use_cache: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if self.attention_type == "local":
            self.local_alignment = self.local_alignment or "predictive"
            self.attention_window = 10 if self.attention_window is None else self.attention_window
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        super().validate_architecture()
        kind = self.attention_type
        if self.hidden_size % 2:
            halves = "a half for each direction of the encoder"
            raise ValueError(f"`hidden_size` must be even, {halves}, got {self.hidden_size}.")
        for name in ("local_alignment", "attention_window"):
            if getattr(self, name) is not None and kind != "local":
                raise ValueError(f'`{name}` is for `attention_type="local"`, not {kind!r}: leave it out.')
        if self.input_feeding and kind in ("none", "additive"):
            what = "has no attentional vector to feed" if kind == "none" else "feeds its context already"
            raise ValueError(f'`input_feeding` is for dot, general, concat and local attention; "{kind}" {what}.')


__all__ = ["RecurrentConfig"]
