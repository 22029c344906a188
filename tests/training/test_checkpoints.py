"""Stopping, writing everything to files and going on with other objects is never having stopped, bit for bit."""

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from fathom.errors import FathomError
from fathom.formats.safetensors_file import write_tensors
from fathom.training.checkpoints import load_optimizer_state, optimizer_state, random_states, restore_random_states


class Sign(Optimizer):
    """An optimizer of the house's kind: state in another dtype, Python numbers, nothing for some, scalars per group."""

    def __init__(self, params: Iterable[Any], lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "window": (1, (2.5, None)), "mode": "sign"})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    state["count"] = state.get("count", 0) + 1
                    state["late"] = None if state["count"] < 2 else 0.1 * state["count"]
                    state["momentum"] = 0.9 * state.get("momentum", torch.zeros_like(p, dtype=torch.float64)) + p.grad
                    p.sub_(group["lr"] * state["momentum"].sign().to(p.dtype))
            group["lr"] *= 0.97


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(1)
    net = nn.ModuleDict({"embed": nn.Embedding(11, 8), "hidden": nn.Linear(8, 8), "out": nn.Linear(8, 11, bias=False)})
    net["unused"] = nn.Linear(2, 2)  # never has a gradient, so the optimizer has nothing for it
    return net.to(dtype)


def grouped(net: nn.Module) -> list[dict[str, Any]]:
    matrices = [p for p in net.parameters() if p.ndim == 2]
    return [{"params": matrices}, {"params": [p for p in net.parameters() if p.ndim < 2], "weight_decay": 0.0}]


def split(net: nn.Module) -> list[Optimizer]:
    matrices, vectors = (group["params"] for group in grouped(net))
    return [Sign(matrices), AdamW(vectors, lr=0.01)]


MAKERS: dict[str, Callable[[nn.Module], list[Optimizer]]] = {
    "AdamW": lambda net: [AdamW(grouped(net), lr=0.01, betas=(0.8, 0.9))],
    "AdamW fused": lambda net: [AdamW(grouped(net), lr=0.01, fused=True)],
    "AdamW foreach, amsgrad": lambda net: [AdamW(grouped(net), lr=0.01, foreach=True, amsgrad=True)],
    "AdamW with a tensor for a rate": lambda net: [AdamW(grouped(net), lr=torch.tensor(0.01), foreach=False)],
    "Adam": lambda net: [Adam(grouped(net))],
    "SGD with momentum": lambda net: [SGD(grouped(net), lr=0.1, momentum=0.9)],
    "SGD, stateless": lambda net: [SGD(grouped(net), lr=0.1)],
    "own": lambda net: [Sign(net.parameters())],
    "two at once": split,
}


def train(net: nn.Module, optimizers: list[Optimizer], steps: int) -> None:
    """Steps that draw on every generator: a batch, its noise, a rate."""
    for _ in range(steps):
        ids = torch.tensor(np.random.randint(0, 11, 16))
        hidden = net["hidden"](nn.functional.dropout(net["embed"](ids), 0.5))  # type: ignore[index]
        loss = nn.functional.cross_entropy(net["out"](hidden).float(), ids) * random.uniform(0.5, 1.5)  # type: ignore[index]
        loss.backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["touched"] = group.get("touched", 0) + 1
            optimizer.step()
            optimizer.zero_grad()


def write(folder: Path, net: nn.Module, optimizers: list[Optimizer]) -> None:
    folder.mkdir()
    tensors, scalars = optimizer_state(optimizers, net.named_parameters())
    write_tensors(folder / "model.safetensors", net.state_dict())
    write_tensors(folder / "optimizer.safetensors", tensors)
    (folder / "state.json").write_text(json.dumps({"optimizer": scalars, "random": random_states()}, allow_nan=False))


def read(folder: Path, net: nn.Module, optimizers: list[Optimizer]) -> None:
    net.load_state_dict(load_file(folder / "model.safetensors"))
    state = json.loads((folder / "state.json").read_text())
    tensors = load_file(folder / "optimizer.safetensors")
    load_optimizer_state(optimizers, net.named_parameters(), tensors, state["optimizer"])
    assert restore_random_states(state["random"]) == []


def everything(net: nn.Module, optimizers: list[Optimizer]) -> list[Any]:
    """Values with their types and dtypes: `==` between two of these is bitwise for what is not a float NaN."""
    states = [
        {"state": list(optimizer.state_dict()["state"].items()), "groups": optimizer.state_dict()["param_groups"]}
        for optimizer in optimizers
    ]
    return [comparable(dict(net.state_dict())), comparable(states), random_states()]


def comparable(value: Any) -> Any:
    match value:
        case Tensor():
            return str(value.dtype), tuple(value.shape), value.contiguous().view(-1).view(torch.uint8).tolist()
        case dict():
            return {key: comparable(item) for key, item in value.items()}
        case list() | tuple():
            return type(value), [comparable(item) for item in value]
    return type(value), value


def seed_all() -> None:
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    random.gauss(0, 1), np.random.standard_normal()  # each keeps its second value for the next call


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_resumed_twice_equals_never_stopped(
    make: Callable[[nn.Module], list[Optimizer]], dtype: torch.dtype, tmp_path: Path
) -> None:
    seed_all()
    net = model(dtype)
    optimizers = make(net)
    wanted = []
    for folder in ("first", "second", "third"):
        train(net, optimizers, 2)
        write(tmp_path / folder, net, optimizers)
        wanted.append(everything(net, optimizers))

    again = model(dtype)
    resumed = make(again)
    train(again, resumed, 1)  # used objects and other random states: nothing of them may remain
    read(tmp_path / "first", again, resumed)
    assert everything(again, resumed) == wanted[0]
    train(again, resumed, 2)
    assert everything(again, resumed) == wanted[1]
    write(tmp_path / "resumed", again, resumed)
    train(again, resumed, 5)
    read(tmp_path / "resumed", again, resumed)
    train(again, resumed, 2)
    assert everything(again, resumed) == wanted[2]


def test_a_checkpoint_of_a_resumed_run_is_the_same_file(tmp_path: Path) -> None:
    net = model()
    optimizers = MAKERS["two at once"](net)
    train(net, optimizers, 2)
    write(tmp_path / "first", net, optimizers)
    again = model()
    resumed = MAKERS["two at once"](again)
    read(tmp_path / "first", again, resumed)
    write(tmp_path / "again", again, resumed)
    for file in (tmp_path / "first").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_parameters_are_known_by_name(tmp_path: Path) -> None:
    net = model()
    optimizer = AdamW(net.parameters())
    train(net, [optimizer], 2)
    tensors, scalars = optimizer_state([optimizer], net.named_parameters())
    assert {"hidden.weight/exp_avg", "hidden.weight/exp_avg_sq", "hidden.weight/step"} <= set(tensors)
    assert scalars["groups"][0]["settings"]["betas"] == {"tuple": [0.9, 0.999]}

    backwards = AdamW(reversed(list(net.parameters())))
    load_optimizer_state([backwards], net.named_parameters(), tensors, scalars)
    for parameter in net.parameters():
        assert comparable(backwards.state[parameter]) == comparable(optimizer.state[parameter])


def test_loaded_state_is_a_copy() -> None:
    net = model()
    optimizer = AdamW(net.parameters())
    train(net, [optimizer], 2)
    tensors, scalars = optimizer_state([optimizer], net.named_parameters())
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    other = AdamW(net.parameters())
    load_optimizer_state([other], net.named_parameters(), kept, scalars)
    train(net, [other], 2)
    assert comparable(kept) == comparable(tensors)


def test_a_state_of_before_the_first_step_empties_a_used_optimizer() -> None:
    net = model()
    saved = optimizer_state([AdamW(net.parameters())], net.named_parameters())
    used = AdamW(net.parameters())
    train(net, [used], 1)
    load_optimizer_state([used], net.named_parameters(), *saved)
    assert not used.state


def test_how_a_step_is_computed_stays_this_machines_choice() -> None:
    net = model()
    optimizer = AdamW(net.parameters(), lr=0.5, fused=True)
    train(net, [optimizer], 1)
    tensors, scalars = optimizer_state([optimizer], net.named_parameters())
    plain = AdamW(net.parameters(), fused=False)
    load_optimizer_state([plain], net.named_parameters(), tensors, scalars)
    assert plain.param_groups[0]["fused"] is False and plain.param_groups[0]["lr"] == 0.5
    train(net, [plain], 1)


Saved = tuple[dict[str, Tensor], dict[str, Any]]


def lose_tensor(saved: Saved) -> None:
    del saved[0]["hidden.weight/exp_avg"]


def add_tensor(saved: Saved) -> None:
    saved[0]["hidden.weight/extra"] = torch.zeros(1)


def lose_parameter(saved: Saved) -> None:
    saved[1]["groups"][0]["parameters"].remove("out.weight")


def rename_parameter(saved: Saved) -> None:
    names = saved[1]["groups"][0]["parameters"]
    names[names.index("out.weight")] = "head.weight"


def regroup(saved: Saved) -> None:
    groups = saved[1]["groups"]
    groups[0]["parameters"].append(groups[1]["parameters"].pop())


WRONG = {
    lose_tensor: "'hidden.weight/exp_avg' was saved and is not here",
    add_tensor: "'hidden.weight/extra' was not saved",
    lose_parameter: "'out.weight' was not saved",
    rename_parameter: "'head.weight' was saved and is not here",
    regroup: "grouped in another way",
}


@pytest.mark.parametrize(("harm", "message"), WRONG.items(), ids=lambda item: getattr(item, "__name__", ""))
def test_what_does_not_fit_is_one_line_and_changes_nothing(harm: Callable[[Saved], None], message: str) -> None:
    net = model()
    optimizers: list[Optimizer] = [AdamW(grouped(net))]
    train(net, optimizers, 2)
    saved = optimizer_state(optimizers, net.named_parameters())
    harm(saved)
    before = everything(net, optimizers)
    with pytest.raises(FathomError, match=message) as caught:
        load_optimizer_state(optimizers, net.named_parameters(), *saved)
    assert "\n" not in str(caught.value) and everything(net, optimizers) == before


def test_state_that_cannot_be_written_is_one_line() -> None:
    net = model()
    optimizer = SGD(net.parameters())
    optimizer.state[net["out"].weight]["history"] = {1, 2}  # type: ignore[index]
    with pytest.raises(FathomError, match="weight/history is a set"):
        optimizer_state([optimizer], net.named_parameters())
    with pytest.raises(FathomError, match="does not name"):
        optimizer_state([SGD([torch.zeros(3, requires_grad=True)])], net.named_parameters())


def test_cuda_generators_travel_and_are_reported_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [torch.arange(16, dtype=torch.uint8), torch.arange(16, 32, dtype=torch.uint8)]
    restored: list[Tensor] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: states)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", restored.extend)
    saved = json.loads(json.dumps(random_states()))
    assert restore_random_states(saved) == [] and comparable(restored) == comparable(states)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert restore_random_states(saved) == ["cuda"]
    saved["cuda"] = []
    assert restore_random_states(saved) == []


def test_state_lies_in_memory_as_its_parameter_does() -> None:
    """A fused step goes through both in the order of memory: a transposed parameter must find its own momentum."""

    def after_two_steps(interrupted: bool) -> torch.Tensor:
        torch.manual_seed(0)
        parameter = torch.nn.Parameter(torch.randn(3, 5).t())
        optimizer = torch.optim.AdamW([parameter], fused=True)
        for step in range(2):
            parameter.grad = torch.randn(5, 3, generator=torch.Generator().manual_seed(step)).t().contiguous().t()
            optimizer.step()
            if interrupted and step == 0:
                tensors, saved = optimizer_state([optimizer], [("p", parameter)])
                tensors = {name: x.clone(memory_format=torch.contiguous_format) for name, x in tensors.items()}
                load_optimizer_state([optimizer], [("p", parameter)], tensors, saved)
        return parameter.detach()

    assert torch.equal(after_two_steps(True), after_two_steps(False))
