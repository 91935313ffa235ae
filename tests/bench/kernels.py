"""Print a hash of what single operations give, forward and backward: which one makes two machines differ?

python tests/bench/kernels.py > here.txt, the same on the other machine, then diff. Inputs come from numpy's
PCG64, whose numbers are the same everywhere. Run it as a stage runs: OMP_NUM_THREADS=1,
ATEN_CPU_CAPABILITY=avx2, MKL_CBWR=AVX2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

GENERATOR = np.random.Generator(np.random.PCG64(0))


def draw(*shape: int) -> Tensor:
    """Return standard normal numbers, float32."""
    return torch.from_numpy(GENERATOR.standard_normal(shape).astype(np.float32))


def digest(*tensors: Tensor) -> str:
    """Return the start of a hash of the bytes."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()[:10]


def show(name: str, function: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Print hashes of the result and of the gradients of the inputs."""
    leaves = [one.clone().requires_grad_() for one in inputs]
    result = function(*leaves)
    weights = torch.from_numpy(np.cos(np.arange(result.numel())).astype(np.float32)).reshape(result.shape)
    result.backward(weights)
    print(f"{name:<24} {digest(result)} {digest(*[one.grad for one in leaves if one.grad is not None])}")


def main() -> None:
    """Print a line per operation."""
    torch.set_num_threads(1)
    for m, k, n in [(64, 128, 344), (4096, 128, 344), (4096, 344, 128), (4096, 128, 2048), (37, 128, 128)]:
        show(f"linear {m}x{k}->{n}", F.linear, draw(m, k), draw(n, k))
    show("matmul batched", torch.matmul, draw(32, 4, 60, 32), draw(32, 4, 32, 60))
    heads = [draw(32, 4, 128, 32) for _ in range(3)]
    show("attention causal", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), *heads)
    x = draw(4096, 128)
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "silu": F.silu,
        "softmax": lambda a: F.softmax(a, -1),
        "log_softmax": lambda a: F.log_softmax(a, -1),
        "rms norm": lambda a: a * torch.rsqrt(a.pow(2).mean(-1, keepdim=True) + 1e-6),
        "exp": torch.exp,
        "cos": torch.cos,
        "sigmoid": torch.sigmoid,
        "mean": lambda a: a.mean(0),
    }
    for name, function in functions.items():
        show(name, function, x)
    ids = torch.from_numpy(GENERATOR.integers(0, 2048, (4096,)))
    show("embedding", lambda w: F.embedding(ids, w), draw(2048, 128))
    show("cross entropy", lambda a: F.cross_entropy(a, ids[:512]), draw(512, 2048))
    weight = torch.nn.Parameter(draw(344, 128))
    optimizer = torch.optim.AdamW([weight], lr=0.01)
    for _ in range(5):
        weight.grad = draw(344, 128)
        optimizer.step()
    print(f"{'adamw':<24} {digest(weight)}")
    torch.manual_seed(0)
    names = {"rand": torch.rand(1000), "randn": torch.randn(1000), "randperm": torch.randperm(1000)}
    for name, tensor in names.items():
        print(f"{name:<24} {digest(tensor)}")


if __name__ == "__main__":
    main()
