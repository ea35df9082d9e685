"""The pipeline "translation" of transformers."""

from typing import Any

from transformers import Pipeline

from hf_vanilla.translation.translator import Translator


class TranslationPipeline(Pipeline):
    """`pipeline("translation", model=..., ...)`, which transformers has no longer."""

    _load_tokenizer: Any = True

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        model: Any = self.model
        tokenizer: Any = self.tokenizer
        self.translator = Translator(model, tokenizer)

    def __call__(self, inputs: str | list[str], **kwargs: Any) -> list[dict[str, str]]:  # type: ignore[override]
        """[{"translation_text": ...}] for a text, or for each of a list; options: those of a [`Translator`]'s call."""
        options: dict[str, Any] = {**self._forward_params, **kwargs}
        translations = self.translator([inputs] if isinstance(inputs, str) else inputs, **options)
        return [{"translation_text": text} for text in translations]

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, options, {}

    def preprocess(self, input_: Any, **options: Any) -> Any:
        """Not used: a [`Translator`] makes batches of texts, not of one after the other."""
        raise NotImplementedError

    _forward: Any = preprocess
    postprocess: Any = preprocess
