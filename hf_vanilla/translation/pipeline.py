"""The pipeline "translation" of transformers."""

from typing import Any

from transformers import Pipeline

from hf_vanilla.translation.translator import Translator


class TranslationPipeline(Pipeline):
    """`pipeline("translation", model=..., ...)`, which transformers no longer has."""

    _load_tokenizer: Any = True

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        tokenizer: Any = self.tokenizer
        self.translator = Translator(self.model, tokenizer)

    def __call__(self, inputs: str | list[str], **options: Any) -> list[dict[str, str]]:  # type: ignore[override]
        """Return [{"translation_text": ...}] of a text, or of each of a list; `options` are a [`Translator`]'s."""
        texts = [inputs] if isinstance(inputs, str) else inputs
        translations = self.translator(texts, **self._forward_params | options)
        return [{"translation_text": text} for text in translations]

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, options, {}

    # A pipeline takes these three steps for one text after the other, but a translator makes batches itself.
    preprocess: Any = None
    _forward: Any = None
    postprocess: Any = None
