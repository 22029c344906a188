"""Muon on a sharded model: a matrix is made orthogonal as a whole, by one of the processes that hold its rows.

The matrices are shared out, each process receives its own from all others, works on them, and sends the rows back: two
exchanges in which a process sends about as many numbers as it holds. Momentum and weights never travel.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from fathom.training.optimizers.muon import Muon, orthogonalize_all
from fathom.training.sharding import own_rows


class ShardedMuon(Muon):
    """`Muon` for parameters that are DTensors, sharded by rows."""

    def held(self, tensors: list[Tensor]) -> list[Tensor]:
        return [x.to_local() for x in tensors if isinstance(x, DTensor)]

    def orthogonal(self, directions: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
        rank, size = dist.get_rank(), dist.get_world_size()
        owners = shared_out([tuple(p.shape) for p in weights], size)
        shapes = [[parts(p.shape, other, size) for other in range(size)] for p in weights]  # of each, by process
        places = [[i for i, owner in enumerate(owners) if owner == other] for other in range(size)]  # by owner
        sent = [[directions[i].to(self.dtype) for i in places[other]] for other in range(size)]
        came = exchanged(sent, [[shapes[i][other] for i in places[rank]] for other in range(size)])
        whole = [torch.cat([came[other][k] for other in range(size)]) for k in range(len(places[rank]))]
        done = orthogonalize_all(whole, self.dtype) if whole else []
        back = [[x[own_rows(len(x), other, size)] for x in done] for other in range(size)]
        own = exchanged(back, [[shapes[i][rank] for i in places[other]] for other in range(size)])
        result = dict(zip((i for each in places for i in each), (x for each in own for x in each)))
        return [result[i].to(weights[i].dtype) for i in range(len(weights))]


def shared_out(shapes: list[tuple[int, ...]], size: int) -> list[int]:
    """Which of `size` processes works on each matrix: the dearest first, each to the one with the least to do."""
    load, owners = [0] * size, [0] * len(shapes)
    costs = [min(shape) ** 2 * max(shape) for shape in shapes]
    for i in sorted(range(len(shapes)), key=lambda i: -costs[i]):
        owners[i] = min(range(size), key=lambda owner: load[owner])
        load[owners[i]] += costs[i]
    return owners


def parts(shape: torch.Size, rank: int, size: int) -> tuple[int, int]:
    """Rows and columns of a matrix that a process holds."""
    held = own_rows(shape[0], rank, size)
    return held.stop - held.start, shape[1]


def exchanged(sent: list[list[Tensor]], shapes: list[list[tuple[int, int]]]) -> list[list[Tensor]]:
    """Send matrices to each process, and receive those of these shapes from each, in one exchange."""
    like = next(x for each in sent for x in each)
    flat = torch.cat([x.reshape(-1) for each in sent for x in each])
    counts = [sum(x.numel() for x in each) for each in sent]
    sizes = [[rows * columns for rows, columns in each] for each in shapes]
    received = like.new_empty(sum(map(sum, sizes)))
    dist.all_to_all_single(received, flat, [sum(each) for each in sizes], counts)
    pieces = iter(received.split([size for each in sizes for size in each]))
    return [[next(pieces).view(shape) for shape in each] for each in shapes]
