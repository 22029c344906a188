"""The SVD of what LoRA adds to a matrix: from its factors, beside a full SVD of their product, in one run.

b (4096, r) and a (r, 11008) as in LLaMA 2 7B's MLP, r = 16: seconds of both, and the largest relative difference of the
r singular values, from the full SVD in fp64 with --exact (which takes minutes), else from that in fp32. Prints one line
and writes svd_delta.json.

usage: python benchmarks/svd_delta.py [--rows 4096] [--columns 11008] [--rank 16] [--repeat 5] [--exact]
"""

import argparse
import json
import time

import torch
from measure import HERE, median_seconds
from torch import Tensor

from fathom.adapters.svd import sampled_svd, svd_of_product


def difference(values: Tensor, exact: Tensor) -> float:
    """The largest relative one."""
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
    values = svd_of_product(b, a).s
    from_factors = median_seconds(lambda: svd_of_product(b, a), call.repeat)
    delta = b @ a
    sampled = sampled_svd(delta, call.rank).svd.s
    from_samples = median_seconds(lambda: sampled_svd(delta, call.rank), 1)
    began = time.perf_counter()
    _, full, _ = torch.linalg.svd(delta, full_matrices=False)
    in_full = time.perf_counter() - began
    exact = torch.linalg.svdvals(b.double() @ a.double()) if call.exact else full.double()
    figures = {
        "shape": [call.rows, call.columns],
        "rank": call.rank,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "seconds_from_factors": from_factors,
        "seconds_sampled": from_samples,
        "seconds_full": in_full,
        "times_faster": in_full / from_factors,
        "largest_relative_difference": difference(values, exact),
        "largest_relative_difference_sampled": difference(sampled, exact),
        "against": "fp64" if call.exact else "fp32",
    }
    (HERE / "svd_delta.json").write_text(json.dumps(figures, indent=1))
    print(
        f"{call.rows} x {call.columns}, r = {call.rank}: {1e3 * from_factors:.1f} ms from the factors, {in_full:.1f} s"
        f" in full, {in_full / from_factors:,.0f} times faster; singular values differ by"
        f" {difference(values, exact):.1e} at most"
    )


if __name__ == "__main__":
    main()
