"""Auto classes: each head by its own, also without the package; the paper's names wherever fields are given."""

import copy
import json
import os
import pickle

import pytest
import transformers
from families import small_config, small_model
from fresh import run_python
from transformers import AutoConfig, AutoModel

from hf_vanilla import (
    RecurrentConfig,
    RecurrentForConditionalGeneration,
    VanillaConfig,
    VanillaDecoderConfig,
    VanillaDecoderForCausalLM,
    VanillaEncoderConfig,
    VanillaEncoderForMaskedLM,
    VanillaEncoderModel,
    VanillaForConditionalGeneration,
)

SAVED = [
    VanillaForConditionalGeneration,
    VanillaEncoderForMaskedLM,
    VanillaDecoderForCausalLM,
    RecurrentForConditionalGeneration,
]
FAMILIES = [VanillaConfig, VanillaEncoderConfig, VanillaDecoderConfig, RecurrentConfig]
NAMES = {
    "d_model": ("hidden_size", 24),
    "d_ff": ("intermediate_size", 48),
    "h": ("num_attention_heads", 2),
    "d_k": ("qk_head_dim", 5),
    "d_v": ("v_head_dim", 6),
    "P_drop": ("dropout", 0.25),
}


def names_of(config_class):
    """The paper's names in a family, the fields that each stands for, and another value than the default."""
    own = {name: ((field,), value) for name, (field, value) in NAMES.items() if field in vars(config_class())}
    depths = ("encoder_layers", "decoder_layers") if config_class().is_encoder_decoder else ("num_hidden_layers",)
    return own | {"N": (depths, 3)}


CASES = [(config_class, name) for config_class in FAMILIES for name in names_of(config_class)]


def model_of(config_class):
    return next(each for each in SAVED if each.config_class is config_class)


def saved(config_class, folder):
    next(each for each in SAVED if each.config_class is config_class)(small_config(config_class)).save_pretrained(
        folder
    )
    return folder


@pytest.mark.parametrize(("config_class", "name"), CASES)
def test_a_name_of_the_paper_works_wherever_a_field_may_be_given(config_class, name, tmp_path):
    fields, value = names_of(config_class)[name]
    given, folder = {name: value}, saved(config_class, tmp_path / "model")
    sizes = small_config(config_class).to_dict()
    others = {key: value for key, value in sizes.items() if key not in fields}
    (tmp_path / "config.json").write_text(json.dumps(others | given))
    changed = [small_config(config_class) for _ in range(3)]
    setattr(changed[0], name, value)
    changed[1].update(given)
    if getattr(changed[2], name) is None or changed[2].update_from_string(f"{name}={value}"):
        changed.pop()  # d_k and d_v have no value that says of which type they are
    loaded = AutoModel.from_pretrained(folder, ignore_mismatched_sizes=True, **given)
    built = AutoModel.from_config(config_class(**others, **given))
    for config in (
        config_class(**given),
        AutoConfig.for_model(config_class.model_type, **given),
        config_class.from_dict(others | given),
        config_class.from_dict(dict(sizes), **given),
        config_class.from_json_file(tmp_path / "config.json"),
        config_class.from_pretrained(tmp_path),
        config_class.from_pretrained(folder, **given),
        AutoConfig.from_pretrained(tmp_path / "config.json"),
        AutoConfig.from_pretrained(folder, **given),
        loaded.config,
        built.config,
        *changed,
    ):
        for each in (config, copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
            assert getattr(each, name) == value
            assert [getattr(each, field) for field in fields] == [value] * len(fields)
        assert name not in config.to_dict()


@pytest.mark.parametrize("config_class", FAMILIES)
def test_a_model_is_built_as_the_paper_names_it(config_class, tmp_path):
    """From a checkpoint of two layers, or of two and three, one of as many as N says."""
    depths = {"decoder_layers": 3} if config_class().is_encoder_decoder else {}
    small_model(model_of(config_class), **depths).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    if depths:
        with pytest.raises(AttributeError, match="N is the depth of both stacks, which have 2 and 3 layers"):
            _ = config.N
    for auto_class in (AutoModel, model_of(config_class)):
        model = auto_class.from_pretrained(tmp_path, N=1, ignore_mismatched_sizes=True)
        stacks = [each for name, each in model.named_modules() if name.split(".")[-1] == "layers"]
        assert stacks and all(len(layers) == 1 for layers in stacks) and model.config.N == 1


@pytest.mark.parametrize("given", [{"N": 3, "decoder_layers": 2}, {"decoder_layers": 2, "N": 3}])
def test_the_depth_of_both_stacks_goes_before_that_of_one(given, tmp_path):
    VanillaConfig().save_pretrained(tmp_path)
    for config in (VanillaConfig(**given), VanillaConfig.from_pretrained(tmp_path, **given)):
        assert (config.encoder_layers, config.decoder_layers) == (3, 3)


@pytest.mark.parametrize(
    ("config_class", "given"),
    [
        (VanillaEncoderConfig, {"num_hidden_layers": 2, "N": 3}),
        (VanillaDecoderConfig, {"d_model": 32, "hidden_size": 64}),
        (RecurrentConfig, {"P_drop": 0.2, "dropout": 0.1}),
    ],
)
def test_two_names_of_a_field_must_agree(config_class, given, tmp_path):
    folder, agreeing = saved(config_class, tmp_path), dict.fromkeys(given, next(iter(given.values())))
    builds = (
        config_class,
        lambda **fields: config_class.from_dict(fields),
        lambda **fields: AutoConfig.from_pretrained(folder, **fields),
    )
    for build in builds:
        with pytest.raises(ValueError, match=f"`{[*given][0]}` is .* and `{[*given][1]}` is .*: give one of them"):
            build(**given)
        build(**agreeing)


@pytest.mark.parametrize("name", ["h", "d_ff", "d_k", "d_v"])
def test_what_a_recurrent_model_has_not_is_refused(name, tmp_path):
    folder, message = saved(RecurrentConfig, tmp_path), f"`{name}` is `.*`, which RecurrentConfig does not have"
    config = RecurrentConfig()
    for give in (
        lambda: RecurrentConfig(**{name: 4}),
        lambda: AutoConfig.for_model("vanilla_recurrent", **{name: 4}),
        lambda: AutoConfig.from_pretrained(folder, **{name: 4}),
        lambda: AutoModel.from_pretrained(folder, **{name: 4}),
        lambda: config.update({name: 4}),
        lambda: setattr(config, name, 4),
    ):
        with pytest.raises(ValueError, match=message):
            give()
    assert not hasattr(config, name)


def test_types_are_those_of_the_field():
    for config in (VanillaConfig(), VanillaEncoderConfig(), RecurrentConfig()):
        for name in ("d_model", "N"):
            with pytest.raises(Exception, match="expected int, got str"):
                setattr(config, name, "3")
            with pytest.raises(Exception, match="expected int, got str"):
                type(config)(**{name: "3"})


def test_a_stack_of_a_translator_takes_names_of_the_paper(tmp_path):
    saved(VanillaConfig, tmp_path / "translator")
    assert VanillaEncoderModel.from_pretrained(tmp_path / "translator", N=1, P_drop=0.5).config.N == 1
    small_model(VanillaEncoderModel, dropout=0.1).save_pretrained(tmp_path / "encoder")
    small_model(VanillaDecoderForCausalLM, dropout=0.2).save_pretrained(tmp_path / "decoder")
    folders = tmp_path / "encoder", tmp_path / "decoder"
    model = VanillaForConditionalGeneration.from_encoder_decoder_pretrained(*folders, P_drop=0.3)
    assert model.config.dropout == 0.3


# Auto classes


@pytest.mark.parametrize("config_class", FAMILIES)
def test_a_configuration_is_saved_with_the_code_of_its_family(config_class, tmp_path):
    """So that `AutoModel.from_config` builds each model where the package is not installed."""
    small_config(config_class).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == config_class.family_auto_map
    output = run_without_the_package(
        """
config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True, N=1)
assert config.N == 1, config
for name in set(config.auto_map) - {"AutoConfig"}:
    model = getattr(transformers, name).from_config(config, trust_remote_code=True)
    assert type(model).__name__ == config.auto_map[name].split(".")[1]
config.save_pretrained(folder + "/again")
print(list(transformers.AutoConfig.from_pretrained(folder + "/again", trust_remote_code=True).auto_map))
""",
        tmp_path,
    )
    assert "AutoConfig" in output


@pytest.mark.parametrize("model_class", SAVED)
def test_each_head_loads_by_its_auto_class(model_class, tmp_path):
    """And no other loads: an Auto class that the map does not name has no model of the family."""
    small_model(model_class).save_pretrained(tmp_path)
    family = model_class.config_class.family_auto_map
    for name in ("AutoModel", "AutoModelForSeq2SeqLM", "AutoModelForCausalLM", "AutoModelForMaskedLM",
                 "AutoModelForSequenceClassification", "AutoModelForTokenClassification",
                 "AutoModelForQuestionAnswering", "AutoModelForMultipleChoice"):  # fmt: skip
        if name in family:
            assert type(getattr(transformers, name).from_pretrained(tmp_path)).__name__ == family[name].split(".")[1]
        else:
            with pytest.raises(ValueError, match="Unrecognized configuration class"):
                getattr(transformers, name).from_pretrained(tmp_path)


def test_the_names_of_the_paper_work_without_the_package(tmp_path):
    small_model(VanillaForConditionalGeneration, decoder_layers=1).save_pretrained(tmp_path)
    run_without_the_package(
        """
model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True, N=3, P_drop=0.5)
assert model.config.N == len(model.decoder.layers) == len(model.encoder.layers) == 3 and model.config.dropout == 0.5
""",
        tmp_path,
    )


def run_without_the_package(code, folder):
    start = f"import sys\nsys.modules['hf_vanilla'] = None\nimport transformers\nfolder = {str(folder)!r}\n"
    environment = {**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    result = run_python(start + code, cwd=folder, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout
