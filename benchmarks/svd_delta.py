"""The SVD of what LoRA adds to a matrix, from its factors, against a full SVD of the product, in one run.

For b (4096, r) and a (r, 11008) as in LLaMA 2 7B's MLP, r = 16: seconds of both, and the largest relative difference of
the r singular values, against the full SVD in fp64 if --exact is given (it takes minutes), else against that in fp32.
Prints a line and writes benchmarks/svd_delta.json.

usage: python benchmarks/svd_delta.py [--rows 4096] [--columns 11008] [--rank 16] [--repeat 5] [--exact]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from fathom.adapters.svd import sampled_svd, svd_of_product


def seconds(call: Callable[[], Tensor], repeat: int) -> tuple[float, Tensor]:
    """Median seconds of a call, and what it gave."""
    times, value = [], call()
    for _ in range(repeat):
        start = time.perf_counter()
        value = call()
        times.append(time.perf_counter() - start)
    return statistics.median(times), value


def apart(values: Tensor, exact: Tensor) -> float:
    """Largest relative difference."""
    return float((values / exact[: len(values)] - 1).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=11008)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--exact", action="store_true")
    call = parser.parse_args()
    torch.manual_seed(0)
    b, a = torch.randn(call.rows, call.rank), torch.randn(call.rank, call.columns)
    ours, values = seconds(lambda: svd_of_product(b, a).s, call.repeat)
    delta = b @ a
    sampled, near = seconds(lambda: sampled_svd(delta, call.rank).svd.s, 1)
    start = time.perf_counter()
    _, full, _ = torch.linalg.svd(delta, full_matrices=False)
    took = time.perf_counter() - start
    exact = torch.linalg.svdvals(b.double() @ a.double()) if call.exact else full.double()
    found = {
        "shape": [call.rows, call.columns],
        "rank": call.rank,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "seconds_from_factors": ours,
        "seconds_sampled": sampled,
        "seconds_full": took,
        "times_faster": took / ours,
        "largest_relative_difference": apart(values, exact),
        "largest_relative_difference_sampled": apart(near, exact),
        "against": "fp64" if call.exact else "fp32",
    }
    Path(__file__).with_name("svd_delta.json").write_text(json.dumps(found, indent=1))
    print(
        f"{call.rows} x {call.columns}, r = {call.rank}: {1e3 * ours:.1f} ms from the factors, {took:.1f} s in full,"
        f" {took / ours:,.0f} times faster; singular values differ by {apart(values, exact):.1e} at most"
    )


if __name__ == "__main__":
    main()
