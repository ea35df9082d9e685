"""The smoothed loss: against the definition and against torch, and untouched by padding and by how batches are cut."""

import pytest
import torch
from torch.nn import functional as F

from hf_vanilla.models.losses_vanilla import cross_entropy


@pytest.fixture
def batch():
    torch.manual_seed(0)
    labels = torch.randint(11, (4, 6))
    labels[0, 4:] = labels[2, 1:] = -100
    return torch.randn(4, 6, 11, requires_grad=True), labels


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_equals_the_definition_and_torch(batch, smoothing):
    logits, labels = batch
    log_probabilities = logits.double().log_softmax(-1)
    target = F.one_hot(labels.clamp(min=0), 11) * (1 - smoothing) + smoothing / 11
    per_token = -(target * log_probabilities).sum(-1)[labels != -100]
    loss = cross_entropy(logits, labels, None, smoothing)
    torch.testing.assert_close(loss.double(), per_token.mean(), rtol=1e-6, atol=0)
    torch_loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=smoothing)
    torch.testing.assert_close(loss, torch_loss)


def test_padding_adds_nothing_to_loss_and_gradient(batch):
    logits, labels = batch
    loss = cross_entropy(logits, labels, None, 0.1)
    (gradient,) = torch.autograd.grad(loss, logits)
    padded = F.pad(logits.detach(), (0, 0, 0, 3), value=7.0).requires_grad_()
    padded_loss = cross_entropy(padded, F.pad(labels, (0, 3), value=-100), None, 0.1)
    (padded_gradient,) = torch.autograd.grad(padded_loss, padded)
    torch.testing.assert_close(padded_loss, loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(padded_gradient[:, :6], gradient, rtol=1e-6, atol=1e-9)
    assert not padded_gradient[:, 6:].any() and not gradient[labels == -100].any()


def test_micro_batches_of_uneven_length_add_up_to_one_batch(batch):
    logits, labels = batch
    whole = cross_entropy(logits, labels, None, 0.1)
    count = (labels != -100).sum()
    parts = [cross_entropy(logits[[row]], labels[[row]], count, 0.1) for row in range(4)]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-6, atol=0)


@pytest.mark.parametrize("num_items", [None, 5])
def test_all_padding_gives_zero_with_zero_gradient(num_items):
    logits = torch.randn(2, 3, 7, requires_grad=True)
    loss = cross_entropy(logits, torch.full((2, 3), -100), num_items, 0.1)
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


def test_half_precision_logits_are_summed_in_float32():
    torch.manual_seed(0)
    logits = (torch.randn(64, 100, 50) * 3).bfloat16()
    labels = torch.randint(50, (64, 100))
    loss = cross_entropy(logits, labels, None, 0.1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, cross_entropy(logits.double().float(), labels, None, 0.1))
