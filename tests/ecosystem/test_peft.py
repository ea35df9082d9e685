"""PEFT on every family: each method without `target_modules`, trained a step, saved and loaded."""

import pytest
import torch
from families import batch_for, small_model
from fresh import run_python
from peft import (
    AdaLoraConfig,
    AutoPeftModel,
    AutoPeftModelForSeq2SeqLM,
    BOFTConfig,
    FourierFTConfig,
    HRAConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    TrainableTokensConfig,
    VBLoRAConfig,
    VeraConfig,
    get_peft_model,
)
from peft.utils import constants
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from hf_vanilla import (
    RecurrentConfig,
    RecurrentForConditionalGeneration,
    VanillaDecoderForCausalLM,
    VanillaDecoderForSequenceClassification,
    VanillaDecoderForTokenClassification,
    VanillaEncoderForMaskedLM,
    VanillaEncoderForMultipleChoice,
    VanillaEncoderForQuestionAnswering,
    VanillaEncoderForSequenceClassification,
    VanillaEncoderForTokenClassification,
    VanillaEncoderModel,
    VanillaForConditionalGeneration,
)

TASKS = {
    VanillaForConditionalGeneration: "SEQ_2_SEQ_LM",
    RecurrentForConditionalGeneration: "SEQ_2_SEQ_LM",
    VanillaDecoderForCausalLM: "CAUSAL_LM",
    VanillaDecoderForSequenceClassification: "SEQ_CLS",
    VanillaDecoderForTokenClassification: "TOKEN_CLS",
    VanillaEncoderModel: "FEATURE_EXTRACTION",
    VanillaEncoderForMaskedLM: None,
    VanillaEncoderForMultipleChoice: None,
    VanillaEncoderForSequenceClassification: "SEQ_CLS",
    VanillaEncoderForTokenClassification: "TOKEN_CLS",
    VanillaEncoderForQuestionAnswering: "QUESTION_ANS",
}
LAYERS = {
    "LoRA": (LoraConfig, {}),
    "DoRA": (LoraConfig, {"use_dora": True}),
    "IA3": (IA3Config, {}),
    "AdaLoRA": (AdaLoraConfig, {"total_step": 10}),
    "LoHa": (LoHaConfig, {}),
    "LoKr": (LoKrConfig, {}),
    "OFT": (OFTConfig, {"oft_block_size": 4}),
    "BOFT": (BOFTConfig, {"boft_block_size": 4}),
    "VeRA": (VeraConfig, {"r": 4}),
    "FourierFT": (FourierFTConfig, {"n_frequency": 8}),
    "HRA": (HRAConfig, {}),
    "VB-LoRA": (VBLoRAConfig, {"vector_length": 4, "num_vectors": 8}),
    "LN": (LNTuningConfig, {}),
}
PROMPTS = {
    "prompt": (PromptTuningConfig, {"num_virtual_tokens": 3}),
    "P-tuning": (PromptEncoderConfig, {"num_virtual_tokens": 3, "encoder_hidden_size": 8}),
    "prefix": (PrefixTuningConfig, {"num_virtual_tokens": 3}),
}


def adapted(model_class, method, **options):
    """A small model with adapters of a method, in training."""
    config_class, own = (LAYERS | PROMPTS)[method]
    if model_class is RecurrentForConditionalGeneration and method in PROMPTS:
        own = own | {"num_attention_heads": 1}
    return get_peft_model(
        small_model(model_class), config_class(task_type=TASKS[model_class], **own | options)
    ).train()


def train_and_reload(model, model_class, folder):
    """Check that every adapter has a gradient, and that what is saved of changed ones is what there was."""
    batch = batch_for(model_class)
    is_prompt = model.active_peft_config.is_prompt_learning
    if is_prompt and "TokenClassification" in model_class.__name__:
        del batch["labels"]  # PEFT gives tags of the texts alone to prompts and texts, with BERT as well
    loss = model(**batch)[0]
    (loss if loss.ndim == 0 else loss.square().sum()).backward()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert trained and all(weight.grad is not None for weight in trained)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in trained:
            weight.add_(torch.randn_like(weight))
    model.eval().save_pretrained(folder)
    again, inputs = PeftModel.from_pretrained(small_model(model_class), folder), batch_for(model_class, labels=False)
    ours, theirs, without = (each.eval()(**inputs)[0] for each in (model, again, small_model(model_class)))
    torch.testing.assert_close(ours, theirs)
    assert (ours.shape != without.shape and is_prompt) or (ours - without).abs().max() > 0


@pytest.mark.parametrize("method", LAYERS)
@pytest.mark.parametrize("model_class", TASKS)
def test_layers_are_adapted_that_nobody_named(model_class, method, tmp_path):
    if method == "LN" and model_class is RecurrentForConditionalGeneration:
        with pytest.raises(ValueError, match="specify `target_modules`"):  # it has no normalisation
            adapted(model_class, method)
        return
    train_and_reload(adapted(model_class, method), model_class, tmp_path)


@pytest.mark.parametrize("method", PROMPTS)
@pytest.mark.parametrize("model_class", [model_class for model_class, task in TASKS.items() if task])
def test_prompts_are_taken_or_refused(model_class, method, tmp_path):
    model = adapted(model_class, method)
    if method == "prefix" and model_class is RecurrentForConditionalGeneration:  # it has no keys and values
        with pytest.raises(ValueError, match=r"past_key_values`|past key values"):
            model(**batch_for(model_class))
        return
    train_and_reload(model, model_class, tmp_path)


@pytest.mark.parametrize("model_class", TASKS)
def test_lora_changes_what_it_changes_in_bart(model_class):
    model = adapted(model_class, "LoRA")
    changed = {name.split(".lora_A")[0].rpartition(".")[2] for name in model.state_dict() if ".lora_A" in name}
    if model_class is RecurrentForConditionalGeneration:
        assert changed == {"query_proj", "key_proj", "output_proj", "initial_proj"}
    else:
        assert changed == {"q_proj", "v_proj"}


@pytest.mark.parametrize("attention_type", ["none", "additive", "dot", "general", "concat", "local"])
def test_every_recurrent_model_has_layers_to_adapt(attention_type):
    model = get_peft_model(small_model(RecurrentForConditionalGeneration, attention_type=attention_type), LoraConfig())
    model(**batch_for(RecurrentForConditionalGeneration)).loss.backward()
    assert all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)


@pytest.mark.parametrize("model_class", [each for each, task in TASKS.items() if task and task.endswith("_CLS")])
def test_heads_of_classifiers_are_trained_and_saved(model_class):
    model = adapted(model_class, "LoRA")
    head = {name for name, _ in model.base_model.model.named_children()} & {"classifier", "score"}
    saved = {name for name, weight in model.named_parameters() if weight.requires_grad and "modules_to_save" in name}
    assert len(head) == 1 and saved and all(head.pop() in name for name in [min(saved)])


@pytest.mark.parametrize("model_class", [VanillaForConditionalGeneration, VanillaDecoderForCausalLM])
def test_all_linear_layers(model_class):
    model = adapted(model_class, "LoRA", target_modules="all-linear")
    linears = [n for n, each in small_model(model_class).named_modules() if isinstance(each, torch.nn.Linear)]
    assert len([name for name in model.state_dict() if ".lora_A" in name]) == len(linears) - 1  # but the output's


def test_every_table_has_our_families():
    for name, table in vars(constants).items():
        if name.startswith("TRANSFORMERS_MODELS_TO_") and name.endswith("_MODULES_MAPPING"):
            assert {"vanilla", "vanilla_encoder", "vanilla_decoder"} <= table.keys(), name
            assert RecurrentConfig.model_type in table or "LNTUNING" in name, name


@pytest.mark.parametrize("task", ["SEQ_2_SEQ_LM", None])
def test_adapters_load_by_themselves(task, tmp_path):
    small_model(VanillaForConditionalGeneration).save_pretrained(tmp_path / "base")
    model = VanillaForConditionalGeneration.from_pretrained(tmp_path / "base")
    model = get_peft_model(model, LoraConfig(task_type=task, init_lora_weights=False)).eval()
    model.save_pretrained(tmp_path / "adapter")
    if task:
        again = AutoPeftModelForSeq2SeqLM.from_pretrained(tmp_path / "adapter").eval()
    else:
        again = AutoPeftModel.from_pretrained(tmp_path / "adapter", import_allowlist=["hf_vanilla"]).eval()
    inputs = batch_for(VanillaForConditionalGeneration, labels=False)
    torch.testing.assert_close(model(**inputs).logits, again(**inputs).logits)


@pytest.mark.parametrize("imports", ["hf_vanilla, peft", "peft, hf_vanilla", "hf_vanilla.cli, peft.utils.constants"])
def test_the_tables_know_the_families_whatever_is_imported_first(imports):
    code = f"import {imports}\nfrom peft import LoraModel\nprint(LoraModel.target_module_mapping['vanilla'])"
    found = run_python(code, check=True)
    assert found.stdout.strip() == "['q_proj', 'v_proj']"


def test_the_same_calls_serve_models_of_transformers():
    """What our models are held to, in-tree models pass."""
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2}
    bert = BertForSequenceClassification(BertConfig(**sizes, intermediate_size=24, num_labels=4))
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_head=4, n_layer=2))
    pairs = ((bert, VanillaEncoderForSequenceClassification), (gpt2, VanillaDecoderForCausalLM))
    for model, counterpart in pairs:
        get_peft_model(model, LoraConfig(task_type=TASKS[counterpart]))(**batch_for(counterpart)).loss.backward()


@pytest.mark.parametrize(
    "model_class", [each for each, task in TASKS.items() if task not in ("TOKEN_CLS", "QUESTION_ANS")]
)
def test_trainable_tokens(model_class, tmp_path):
    """PEFT does not give them to tags and answers, of BERT neither."""
    config = TrainableTokensConfig(task_type=TASKS[model_class], token_indices=[4, 5, 6])
    train_and_reload(get_peft_model(small_model(model_class), config).train(), model_class, tmp_path)
