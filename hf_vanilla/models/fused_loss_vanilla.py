"""The output projection and its cross-entropy as one function, which never holds all logits at once."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Bytes of logits that are held at a time: at least so many, and on a GPU, which each chunk costs a dozen launches, the
# power of two below this share of its memory.
CHUNK = 2**25
SHARE = 1 / 512
# On CPU, what fits into its cache: rows whose softmax is taken, and classes whose gradient becomes float32, at a time.
ROWS = 8
CLASSES = 2048


class LinearCrossEntropy(torch.autograd.Function):
    """The sum of the smoothed cross-entropies of x W^T + b, divided by a count.

    Let p be the softmax of a row of logits, and q its smoothed label: epsilon / V for each of V classes, and 1 -
    epsilon more for the label. The loss is -q log p, and its derivative with respect to the logits is p - q. The
    forward pass computes both for one chunk of rows after the other, so that no chunk is kept for the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        count: Tensor | int,
        epsilon: float,
        differentiate: bool,
    ) -> Tensor:
        """Return the float32 loss of `hidden_states` (rows, hidden_size) and `labels` (rows,)."""
        device = hidden_states.device.type
        # Under FSDP2, weights are in half precision where states may not be.
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        needs_x, needs_w, needs_b = (differentiate and needed for needed in ctx.needs_input_grad[:3])
        with torch.autocast(device, enabled=False):
            x, w = hidden_states.to(dtype), weight.to(dtype)
            b = None if bias is None else bias.to(dtype)
            total = torch.zeros((), device=x.device)
            # The inputs' gradients are those of the sum: those of the mean would be too small for float16.
            grad_x = torch.empty_like(x) if needs_x else None
            grad_w = torch.zeros_like(weight, dtype=torch.float32) if needs_w else None
            grad_b = torch.zeros_like(weight[:, 0], dtype=torch.float32) if needs_b else None
            rows = max(1, min(len(x), chunk_bytes(memory_of(x.device)) // (len(w) * dtype.itemsize)))
            for start in range(0, len(x), rows):
                chunk = x[start : start + rows]
                logits = F.linear(chunk, w, b)
                parts = ROWS if x.device.type == "cpu" else rows
                for part, label in zip(logits.split(parts), labels[start : start + rows].split(parts), strict=True):
                    scores = part.log_softmax(dim=-1, dtype=torch.float32)
                    total -= (1 - epsilon) * scores.gather(1, label[:, None]).sum()
                    if epsilon:
                        total -= epsilon * scores.mean(dim=-1).sum()
                    if differentiate:
                        scores.exp_()[torch.arange(len(label), device=x.device), label] -= 1 - epsilon
                        part.copy_(scores.sub_(epsilon / len(w)))
                p_minus_q = logits
                if grad_x is not None:
                    torch.mm(p_minus_q, w, out=grad_x[start : start + rows])
                if grad_w is not None and dtype == torch.float32:
                    grad_w.addmm_(p_minus_q.t(), chunk)
                elif grad_w is not None:
                    classes = CLASSES if x.device.type == "cpu" else len(w)
                    scale = scale_of_sums(chunk) if dtype == torch.float16 else None
                    chunk = chunk if scale is None else chunk * scale.to(dtype)
                    for grad, part in zip(grad_w.split(classes), p_minus_q.split(classes, dim=1), strict=True):
                        product = part.t() @ chunk
                        grad += product if scale is None else product.float().div_(scale)
                if grad_b is not None:
                    grad_b += p_minus_q.sum(0, dtype=torch.float32)
                del logits, p_minus_q, part  # so that their memory is free for those of the next chunk
        means = (grad if grad is None else grad.div_(count) for grad in (grad_w, grad_b))
        ctx.save_for_backward(grad_x, *means)
        ctx.count, ctx.dtypes = count, (hidden_states.dtype, weight.dtype)
        return total / count

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients that `forward` prepared, times `grad`."""
        if torch.is_grad_enabled():
            raise RuntimeError("This loss has no second derivative: for one, call the model with output_logits=True.")
        grad_x, grad_w, grad_b = ctx.saved_tensors
        of_x, of_w = ctx.dtypes
        if grad_x is not None:
            grad_x = (grad_x.float() * (grad / ctx.count)).to(of_x)
        # Times 1, the largest matrix would be copied for nothing, unless it is asked for once more.
        if grad.device.type != "cpu" or keeps_graph() or is_batched(grad) or grad != 1:
            grad_w, grad_b = (of if of is None else of * grad for of in (grad_w, grad_b))
        grad_w, grad_b = (of if of is None else of.to(of_w) for of in (grad_w, grad_b))
        return grad_x, grad_w, grad_b, None, None, None, None


def scale_of_sums(rows: Tensor) -> Tensor:
    """Return the power of two, 1 at most, that keeps sums of `rows` (rows, hidden_size), each times a number of 1 at
    most, below the largest of float16, 65,504, to which a product is rounded: (), float32."""
    largest = len(rows) * rows.abs().amax().float()
    return torch.exp2(torch.floor(torch.log2(32768 / largest.clamp(min=1)))).clamp(max=1)


def chunk_bytes(memory: float) -> int:
    """Return how many bytes of logits to hold at a time on a GPU that has `memory` bytes, which is 0 elsewhere."""
    return CHUNK if memory * SHARE < CHUNK else 2 ** int(math.log2(memory * SHARE))


def memory_of(device: torch.device) -> int:
    """Return the bytes of memory of a GPU, 0 for another device."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0


def keeps_graph() -> bool:
    """True if the backward pass that runs can be taken again (`retain_graph=True`), or nothing tells."""
    is_kept = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return True if is_kept is None else bool(is_kept())


def is_batched(grad: Tensor) -> bool:
    """True for several gradients at once (`is_grads_batched=True`), which no condition can be asked of."""
    functorch: Any = torch._C._functorch
    return functorch.is_legacy_batchedtensor(grad) or functorch.is_batchedtensor(grad)
