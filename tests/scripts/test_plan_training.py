"""What a training run is predicted to take, beside what torch counts, keeps and allocates, and the paper's runs."""

import dataclasses
from pathlib import Path

import plan_training as planner
import pytest
import torch
from paper import arithmetic
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, bmm_flop, sdpa_backward_flop_count, sdpa_flop_count

from hf_vanilla import (
    VanillaConfig,
    VanillaDecoderConfig,
    VanillaDecoderForCausalLM,
    VanillaEncoderConfig,
    VanillaEncoderForMaskedLM,
    VanillaForConditionalGeneration,
)
from hf_vanilla.models.fused_loss_vanilla import LinearCrossEntropy
from hf_vanilla.models.unpadding_vanilla import Dropout
from hf_vanilla.training.config import TrainingConfig
from hf_vanilla.training.optim import Muon

SCRIPTS = Path(__file__).parents[2] / "scripts"
aten = torch.ops.aten
# torch's counter knows neither the CPU's attention nor a product that is added in place; its own formulas do.
CPU_KERNELS = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(
        g, q, k, v
    ),
    aten.addmm_: lambda _, a, b, **__: bmm_flop((1, *a), (1, *b)),
}
SHAPE = {"vocab_size": 50, "d_model": 24, "d_ff": 40, "h": 3}


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """Attention by sdpa's kernel, which on CPU is left where plain products are faster."""
    monkeypatch.setattr("hf_vanilla.models.unpadding_vanilla.SHORT_IN_ONEDNN", 0)


def ids_of(lengths):
    """Random ids (rows, longest) and their mask."""
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return torch.randint(3, SHAPE["vocab_size"], mask.shape) * mask, mask


def translation(lengths, target_lengths):
    source, mask = ids_of(lengths)
    target, target_mask = ids_of(target_lengths)
    return {"input_ids": source, "attention_mask": mask, "labels": target.masked_fill(target_mask == 0, -100)}


def count(model, batch):
    with FlopCounterMode(display=False, custom_mapping=CPU_KERNELS) as counter:
        model(**batch, label_smoothing=0.1, output_logits=False).loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_flops_of_a_full_batch(attention, checkpointing):
    config = VanillaConfig(**SHAPE, encoder_layers=2, decoder_layers=3, attn_implementation=attention)
    model = VanillaForConditionalGeneration(config).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    lengths, target_lengths = [7] * 5, [9] * 5
    work = arithmetic.Work(35, 45, 45, 5 * 49, 5 * 81, 5 * 63)
    expected = arithmetic.training_flops(config, work, checkpointing, attention == "sdpa")
    assert count(model, translation(lengths, target_lengths)) == expected


def test_flops_where_padding_is_left_out():
    """Short rows get it back for attention, which is then made of plain products; of long ones none is computed."""
    config = VanillaConfig(**SHAPE, N=2)
    model = VanillaForConditionalGeneration(config).train()
    for fused, lengths, target_lengths in ((False, [9, 4, 2], [3, 8, 5]), (True, [90, 40, 20], [30, 80, 50])):
        pairs = [
            [(len(a) * max(a) * max(b))] if not fused else [x * y for x, y in zip(a, b, strict=True)]
            for a, b in ((lengths, lengths), (target_lengths, target_lengths), (target_lengths, lengths))
        ]
        work = arithmetic.Work(sum(lengths), sum(target_lengths), sum(target_lengths), *map(sum, pairs))
        expected = arithmetic.training_flops(config, work, fused_attention=fused)
        assert count(model, translation(lengths, target_lengths)) == expected


def test_flops_of_the_language_models():
    rows, length = 4, 24  # on CPU, rows of 20 and less would leave out their last token, which predicts nothing
    ids, mask = ids_of([length] * rows)
    labels = ids.masked_fill(torch.rand(ids.shape) > 0.3, -100)
    encoder = VanillaEncoderConfig(**SHAPE, num_hidden_layers=2)
    work = arithmetic.Work(source=96, labels=int((labels != -100).sum()), source_pairs=4 * 24**2)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    assert count(VanillaEncoderForMaskedLM(encoder).train(), batch) == arithmetic.training_flops(encoder, work)
    decoder = VanillaDecoderConfig(**SHAPE, num_hidden_layers=2, norm_position="pre")
    positions = torch.cat((torch.arange(15), torch.arange(9))).expand(rows, -1)  # two documents a row
    batch = {"input_ids": ids, "position_ids": positions, "labels": ids.masked_fill(positions == 0, -100)}
    work = arithmetic.Work(target=96, labels=4 * 22, target_pairs=4 * 24**2)
    assert count(VanillaDecoderForCausalLM(decoder).train(), batch) == arithmetic.training_flops(decoder, work)


def test_flops_of_the_loss_in_chunks(monkeypatch):
    """With hooks in place, as torch's counter has them, models make their logits whole."""
    monkeypatch.setattr("hf_vanilla.models.fused_loss_vanilla.CHUNK", 4 * 50 * 4)
    x, weight = torch.randn(11, 24, requires_grad=True), torch.randn(50, 24, requires_grad=True)
    with FlopCounterMode(display=False, custom_mapping=CPU_KERNELS) as counter:
        LinearCrossEntropy.apply(x, weight, None, torch.arange(11), 11, 0.1, True).backward()
    work = arithmetic.Work(labels=11)
    assert counter.get_total_flops() == arithmetic.training_flops(VanillaConfig(**SHAPE), work)


@pytest.mark.parametrize(
    ("family", "fields", "half"),
    [
        ("translation", {}, False),
        ("translation", {}, True),
        ("translation", {"norm_position": "pre", "activation_function": "gelu", "embedding_norm": True}, False),
        ("translation", {"norm_position": "pre", "activation_function": "gelu", "embedding_norm": True}, True),
        ("translation", {"dropout": 0.0, "final_norm": True}, True),
        ("masked", {"activation_function": "gelu", "position_embedding_type": "learned"}, False),
        ("causal", {"norm_position": "pre", "activation_function": "gelu_new"}, False),
        ("causal", {"norm_position": "pre", "activation_function": "gelu_new"}, True),
    ],
)
def test_what_is_kept_for_the_way_back(family, fields, half):
    kinds = {
        "translation": (VanillaForConditionalGeneration, VanillaConfig, {"N": 2, "decoder_layers": 3}),
        "masked": (VanillaEncoderForMaskedLM, VanillaEncoderConfig, {"num_hidden_layers": 2}),
        "causal": (VanillaDecoderForCausalLM, VanillaDecoderConfig, {"num_hidden_layers": 2}),
    }
    model_class, config_class, depth = kinds[family]
    config = config_class(**SHAPE, **depth, **fields)
    model = model_class(config).train()
    rows, length = 4, 24
    ids, mask = ids_of([length] * rows)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": ids}
    work = arithmetic.Work.of_rows(config, rows, length)
    if family == "masked":
        batch["labels"] = ids.masked_fill(torch.arange(length) >= work.labels // rows, -100)
    if family == "causal":
        del batch["attention_mask"]
        batch["position_ids"] = (torch.arange(length) % 12).expand(rows, length)
    found = {}

    def keep(tensor):
        if tensor.is_floating_point() or tensor.dtype == torch.bool:
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        model(**batch, output_logits=False)
    for parameter in model.parameters():
        found.pop(parameter.data_ptr(), None)
    kept = sum(tensor.untyped_storage().nbytes() for tensor in found.values() if tensor.numel() > 1)
    itemsize = 2 if half else 4
    encoder_layer, decoder_layer, rest = arithmetic.kept_bytes(config, work, itemsize)
    encoder, decoder = arithmetic.depths(config)
    # The loss keeps its gradients; and each matrix of a layer, its half.
    loss = work.labels * 24 * itemsize + 50 * 24 * 4 + (50 * 4 if family == "masked" else 0)
    halves = 2 * sum(w.numel() for name, w in model.named_parameters() if ".layers." in name and w.ndim == 2) * half
    assert kept == encoder * encoder_layer + decoder * decoder_layer + rest + loss + halves


class KernelCounter(TorchDispatchMode):
    """Counts kernels, and the bytes that those which are neither products nor attention read and write."""

    def __init__(self):
        super().__init__()
        self.kernels = self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if not func.is_view and not name.startswith(("empty", "detach")):
            self.kernels += 1
            if not name.startswith(("mm", "addmm", "bmm", "_scaled_dot_product")):
                tensors = [each for each in tree_leaves((args, kwargs, result)) if isinstance(each, torch.Tensor)]
                self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


@pytest.mark.parametrize("half", [False, True])
def test_kernels_and_what_they_read_and_write(monkeypatch, half):
    """As on a GPU, where dropout is one kernel, and the softmax of a chunk of logits is taken at once."""
    native = torch.native_dropout
    monkeypatch.setattr(Dropout, "forward", lambda self, states: native(states, self.p, True)[0])
    monkeypatch.setattr("hf_vanilla.models.fused_loss_vanilla.ROWS", 10**6)
    counted, predicted = {}, {}
    for encoder, decoder in ((1, 1), (2, 1), (1, 2)):
        shape = {"vocab_size": 500, "d_model": 64, "d_ff": 256, "h": 2}
        config = VanillaConfig(**shape, encoder_layers=encoder, decoder_layers=decoder)
        model = VanillaForConditionalGeneration(config).train()
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        ids = torch.randint(3, 500, (40, 25))
        with KernelCounter() as counter:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                options = {"label_smoothing": 0.1, "output_logits": False}
                loss = model(input_ids=ids, decoder_input_ids=ids, labels=ids, **options).loss
            loss.backward()
        itemsize, work = 2 if half else 4, arithmetic.Work.of_rows(config, 40, 25)
        parameters = model.num_parameters()
        counted[encoder, decoder] = counter.kernels, counter.bytes
        passes = planner.passes(config, work, itemsize, parameters, False)
        predicted[encoder, decoder] = planner.launches(config, itemsize, False), passes
    for kind in counted:
        assert counted[kind] == pytest.approx(predicted[kind], rel=0.15)
    for deeper in ((2, 1), (1, 2)):  # a layer's own
        (kernels, moved), (more, more_moved) = (
            [own - all_else for own, all_else in zip(of[deeper], of[1, 1], strict=True)] for of in (counted, predicted)
        )
        assert kernels == pytest.approx(more, rel=0.1) and moved == pytest.approx(more_moved, rel=0.15)


@pytest.mark.parametrize(
    ("name", "options", "rows", "length"),
    [
        ("verses_small", [], 20, 30),
        ("verses_small", ["--gradient_checkpointing", "true"], 20, 30),
        ("verses_small", ["--mixed_precision", "bf16"], 10, 30),
        ("verses_small", ["--mixed_precision", "bf16", "--gradient_checkpointing", "true"], 20, 30),
        ("masked_lm", [], 8, 128),
        ("masked_lm", ["--gradient_checkpointing", "true"], 16, 128),
        ("causal_lm", [], 20, 128),  # more than a chunk of logits
        ("causal_lm", ["--gradient_checkpointing", "true"], 16, 128),
    ],
)
def test_memory_is_what_a_step_takes(name, options, rows, length):
    given = ["--mixed_precision", "no", *options]
    config = TrainingConfig.load(SCRIPTS / "configs" / f"{name}.yaml", given)
    predicted, taken = planner.measure(config, rows, length)
    assert predicted == pytest.approx(taken, rel=0.05)


def p100s():
    """The paper's machine, as the docstring of the script has it."""
    return planner.Machine(8, 16, 9.5, 10, 732, 0.45, 10)


@pytest.mark.parametrize(("size", "hours", "seconds"), [("base", 12, 0.4), ("big", 84, 1.0)])
def test_the_paper_s_runs_are_predicted(size, hours, seconds):
    path = SCRIPTS / "configs" / "paper" / f"wmt14_en_de_{size}.yaml"
    config = TrainingConfig.load(path, ["--mixed_precision", "no"])
    plan = planner.make_plan(config, p100s(), 30)
    assert plan.step * config.max_steps / 3600 == pytest.approx(hours, rel=0.2)
    assert plan.step == pytest.approx(seconds, rel=0.2)
    assert sum(plan.memory.values()) < planner.USABLE * 16 * 2**30


def test_muon_has_one_moment_of_a_matrix_and_products_of_its_own():
    adam = TrainingConfig(max_steps=10, batch_tokens=3000, hidden_size=64, encoder_layers=2, decoder_layers=1)
    by_muon = dataclasses.replace(adam, optimizer="muon")
    one, other = (planner.make_plan(config, p100s(), 30) for config in (adam, by_muon))
    model = VanillaForConditionalGeneration(planner.build(adam).config)
    muon = Muon(model, 1e-3)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    with FlopCounterMode(display=False) as counter:
        muon.step()
    moments = (each for state in muon.state.values() for each in state.values() if each.dim())
    assert other.memory["optimiser"] == sum(each.numel() * 4 for each in moments) < one.memory["optimiser"]
    more = (other.seconds["products"] - one.seconds["products"]) * 9.5e12 * 0.45
    assert more == pytest.approx(counter.get_total_flops())
    tables = (planner.report(config, p100s(), 30, 10, None) for config in (adam, by_muon))
    assert ["FSDP2" in table for table in tables] == [True, False]  # a run by Muon refuses to be sharded


def test_sharing_between_gpus():
    config = TrainingConfig(max_steps=10, mixed_precision="bf16", accumulation_steps=2)
    model, machine = planner.build(config), planner.Machine(4, 80, 990, 400, 3350, 0.45, 10)
    every = sum(weight.numel() for weight in model.parameters())
    layers = sum(w.numel() for name, w in model.named_parameters() if ".layers." in name)
    whole, sharded = (planner.make_plan(config, machine, 30, sharded) for sharded in (False, True))
    for part, count in (("weights", 4), ("gradients", 4), ("optimiser", 8)):
        assert whole.memory[part] == count * every and sharded.memory[part] == count * every / 4
    assert whole.memory["activations"] == sharded.memory["activations"]
    # Rings: a gradient goes round twice. Sharded, layers are gathered twice for each micro-batch, embeddings once.
    assert whole.sent == 2 * 4 * every * 3 / 4
    assert sharded.sent == (2 * (2 * 2 * layers + 2 * (every - layers)) + 4 * every) * 3 / 4
    again = planner.make_plan(config, machine, 30, checkpointing=True)
    assert again.flops > 1.2 * whole.flops and again.memory["activations"] < 0.5 * whole.memory["activations"]
    assert whole.seconds["products"] == pytest.approx(whole.flops / (4 * 990e12 * 0.45), rel=0.01)
    alone = planner.make_plan(config, planner.Machine(1, 80, 990, 400, 3350, 0.45, 10), 30)
    assert alone.sent == 0 and alone.flops == whole.flops


@pytest.mark.parametrize("sharded", [False, True])
def test_the_largest_batch_that_fits(sharded):
    machine = planner.Machine(2, 8, 990, 400, 3350, 0.45, 10)
    most = planner.make_plan(TrainingConfig(max_steps=1), machine, 30, sharded).most_tokens
    for more, fits in ((0, True), (30, False)):
        plan = planner.make_plan(TrainingConfig(max_steps=1, batch_tokens=2 * (most + more)), machine, 30, sharded)
        assert (sum(plan.memory.values()) <= planner.USABLE * 8 * 2**30) == fits


def run(monkeypatch, *options):
    monkeypatch.setattr("sys.argv", ["plan_training.py", *options])
    planner.main()


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        (["--peak-tflops", "1"], "compute"),
        (["--bandwidth", "0.01"], "communication"),
        (["--memory-bandwidth", "1"], "memory bandwidth"),
        (["--launch", "100000"], "launches"),
        (["--gpu-memory", "0.3"], "does not fit: memory"),
    ],
)
def test_what_limits_a_run_is_named(monkeypatch, capsys, options, limit):
    path = str(SCRIPTS / "configs" / "base.yaml")
    run(monkeypatch, path, "--price", "2", *options)
    lines = {
        line.split("|")[1].strip(): line.split("|")[2:6]
        for line in capsys.readouterr().out.splitlines()
        if "|" in line
    }
    assert {cell.strip() for cell in lines["limited by"]} == {limit}
    hours, cost = (float(lines[name][0].replace(",", "")) for name in ("100,000 updates, hours", "cost"))
    assert cost == pytest.approx(hours * 8 * 2, abs=1 + 0.1 * 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["base.yaml", "--gpus", "0"], "--gpus is 0; expected a positive number"),
        (["base.yaml", "--batch_tokens", "60"], "a row for each of 8 GPUs"),
        (["base.yaml", "--activation_function", "mish"], "activation_function is mish"),
        (["recurrent_dot.yaml", "--steps", "5"], "architecture is recurrent; expected transformer"),
        (["verses_demo.yaml"], "give --steps"),
        (["base.yaml", "--hiden_size", "64"], "did you mean 'hidden_size'?"),
        (["nowhere.yaml"], "no such file"),
        (["."], "Is a directory"),
        (["base.yaml", "--gpu_memory", "inf"], "--gpu-memory is inf; expected a positive number"),
        (["base.yaml", "--utilisation", "45"], "expected a share of the peak"),
    ],
)
def test_what_cannot_be_planned_is_named(monkeypatch, capsys, options, message):
    with pytest.raises(SystemExit):
        run(monkeypatch, str(SCRIPTS / "configs" / options[0]), *options[1:])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("size", ["base", "big"])
def test_the_paper_s_runs_are_planned_as_the_card_says(monkeypatch, capsys, size):
    card = (SCRIPTS.parent / "model_cards" / "paper.md").read_text(encoding="utf-8").splitlines()
    p100 = "--gpus 8 --gpu-memory 16 --peak-tflops 9.5 --bandwidth 10 --memory-bandwidth 732 --mixed_precision no"
    run(monkeypatch, str(SCRIPTS / "configs" / "paper" / f"wmt14_en_de_{size}.yaml"), *p100.split())
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) > 15 and [row for row in rows if row not in card] == []
