"""Every mistake ends in one line on stderr that says what was found and what to do, exit code 2, and nothing lost."""

import shutil
from pathlib import Path

import pytest

from fathom.cli.main import main
from fathom.experiments.experiment import Cost

TEXT = "To be, or not to be, that is the question. " * 60
TINY = [
    "--max-iters",
    "2",
    "--model.d-model",
    "16",
    "--model.n-layer",
    "1",
    "--model.n-head",
    "2",
    "--block-size",
    "16",
]
TINY += ["--eval-interval", "2", "--device", "cpu", "--dtype", "fp32"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT)
    assert main(["train", "--data", str(folder / "text.txt"), "--out-dir", str(folder / "run"), *TINY]) == 0
    return folder / "run"


@pytest.fixture
def place(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with good and bad files in it, in which the call is made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fathom.experiments.experiment.measure", lambda *_: Cost(step=1.0, evaluation=1.0))
    shutil.copytree(trained, "run")
    texts = {"text.txt": TEXT, "empty.txt": "", "tiny.txt": "ab", "blank.txt": " \n", "wrong.yaml": "model: [1, 2"}
    texts |= {
        "list.yaml": "- 1\n- 2\n",
        "field.yaml": "model:\n  n_layers: 3\n",
        "section.yaml": "modle:\n  n_layer: 3\n",
    }
    texts |= {
        "type.yaml": "train:\n  momentum: many\n",
        "lines.jsonl": '{"text": "a"}\nnot json\n',
        "notext.jsonl": '{"body": "a"}\n',
    }
    texts |= {"notatokenizer.json": "{}", "broken.json": "{", "number.jsonl": '{"text": 3}\n'}
    for name, text in texts.items():
        Path(name).write_text(text)
    Path("latin.txt").write_bytes("caf\xe9 ".encode("latin-1") * 500)
    Path("binary.txt").write_bytes(bytes(range(256)) * 40)
    Path("folder").mkdir()
    Path("norun").mkdir()
    for name in ("nomodel", "cut", "flipped"):
        shutil.copytree("run", name)
    shutil.rmtree("nomodel/checkpoints")
    for step in Path("cut/checkpoints").iterdir():
        (step / "model.safetensors").write_bytes((step / "model.safetensors").read_bytes()[:100])
    for step in Path("flipped/checkpoints").iterdir():
        data = bytearray((step / "model.safetensors").read_bytes())
        data[-5] ^= 1
        (step / "model.safetensors").write_bytes(bytes(data))
    return tmp_path


def train(*rest: str, data: str = "text.txt") -> list[str]:
    return ["train", "--data", data, "--out-dir", "new", *TINY, *rest]


CALLS = [
    # data
    (train(data="empty.txt"), "empty"),
    (train(data="tiny.txt"), "tiny.txt"),
    (train(data="blank.txt"), "blank.txt"),
    (train(data="binary.txt"), "binary.txt"),
    (train(data="latin.txt"), "UTF-8"),
    (train(data="missing.txt"), "missing.txt"),
    (train(data="python-doc"), "python-docs"),
    (train(data="shakespear"), "shakespeare"),
    (train(data="folder"), "folder"),
    (train(data="lines.jsonl"), "line 2"),
    (train(data="notext.jsonl"), "text"),
    (train(data="number.jsonl"), "line 1"),
    (train("--block-size", "5000"), "5000"),
    (train("--train.val-fraction", "0"), "val_fraction"),
    (train("--train.val-fraction", "1.5"), "val_fraction"),
    # presets, fields, options
    (["train", "shakespear-cpu"], "shakespeare-cpu"),
    (["presets", "gpt3"], "gpt2"),
    (["presets", "gpt2", "llama"], "llama"),
    (["trian"], "train"),
    (train("--max-itters", "3"), "--max-iters"),
    (train("--model.n-layers", "3"), "--model.n-layer"),
    (train("--train.weight-decy", "3"), "--train.weight-decay"),
    (train("-c", "missing.yaml"), "missing.yaml"),
    (train("-c", "wrong.yaml"), "wrong.yaml"),
    (train("-c", "list.yaml"), "list.yaml"),
    (train("-c", "field.yaml"), "n_layer"),
    (train("-c", "section.yaml"), "model"),
    (train("-c", "type.yaml"), "momentum"),
    (train("--max-iters", "ten"), "--max-iters"),
    (train("--max-iters", "0"), "max_iters"),
    (train("--batch-size", "-4"), "batch_size"),
    (train("--lr", "nan"), "learning_rate"),
    (train("--lr", "-1"), "learning_rate"),
    (train("--model.position", "rotary"), "rope"),
    (train("--model.norm", "layernorm"), "layer"),
    (train("--model.mlp", "swiglo"), "swiglu"),
    (train("--model.bias", "maybe"), "one of on, off, qkv, out"),
    (train("--train.schedule", "cosin"), "cosine"),
    (train("--train.optimizer", "sgd"), "adamw"),
    (train("--dtype", "fp8"), "fp32"),
    (train("--device", "gpu"), "cpu"),
    (train("--device", "cuda"), "cuda"),
    # contradictions
    (train("--model.n-head", "3"), "n_head"),
    (train("--model.n-kv-head", "3"), "n_kv_head"),
    (train("--model.n-head", "16", "--model.position", "rope"), "head_dim"),
    (train("--model.n-layer", "-1"), "n_layer"),
    (train("--model.dropout", "1"), "dropout"),
    (train("--train.warmup-steps", "50"), "warmup_steps"),
    (train("--batch-size", "12", "--train.micro-batch-size", "5"), "micro_batch_size"),
    (train("--model.vocab-size", "3"), "vocab_size"),
    (train("--resume", "--overwrite"), "--resume"),
    (train("--resume"), "new"),
    (train("--dtype", "fp16"), "fp16"),
    (["train", "--data", "text.txt", "-o", "run", "--overwrite", "--dtype", "fp16", *TINY[:-2]], "fp16"),
    (train("--train.init", "zero-output", "--model.residual", "false"), "zero-output"),
    (["train", "--data", "text.txt", "-o", "run", "--overwrite", "--block-size", "5000", *TINY[:8]], "5000"),
    (train("--train.sample-prompt", "%"), "%"),
    (train("--grad-accumulation", "7"), "7"),
    (["train", "--resume", "--out-dir", "run", "--grad-accumulation", "2"], "--grad-accumulation"),
    # tokenizers
    (train("--tokenizer", "bpe"), "bpe:"),
    (train("--tokenizer", "bpe:12"), "256"),
    (train("--tokenizer", "chars"), "char"),
    (train("--tokenizer", "notatokenizer.json"), "notatokenizer.json"),
    (train("--tokenizer", "broken.json"), "broken.json"),
    # run folders
    (["train", "--data", "text.txt", "--out-dir", "run", *TINY], "--overwrite"),
    (["train", "--resume", "--out-dir", "run", "--model.n-layer", "2"], "n_layer"),
    (["train", "--resume", "--out-dir", "cut"], "checkpoint"),
    (["train", "--resume", "--out-dir", "norun"], "norun"),
    (["train", "--data", "text.txt", "--out-dir", "text.txt", *TINY], "text.txt"),
    # generating
    (["generate", "nowhere"], "nowhere"),
    (["generate", "norun"], "norun"),
    (["generate", "nomodel"], "checkpoint"),
    (["generate", "cut"], "model.safetensors"),
    (["generate", "flipped"], "model.safetensors"),
    (["generate", "run", "-p", "to be%"], "%"),
    (["generate", "run", "-n", "0"], "max_new_tokens"),
    (["generate", "run", "-t", "-1"], "temperature"),
    (["generate", "run", "--top-p", "1.5"], "top_p"),
    (["generate", "run", "--top-k", "0"], "top_k"),
    (["generate", "run", "--samplers", "top_k,tpo_p"], "top_p"),
    (["generate", "run", "-p", "FILE:missing.txt"], "missing.txt"),
    (["generate", "run", "--num-samples", "0"], "num"),
    (["generate"], "MODEL"),
    # the ladder
    (["ladder", "--data", "missing.txt"], "missing.txt"),
    (["ladder", "--data", "text.txt", "--rungs", "bigramm"], "bigram"),
    (["ladder", "--data", "text.txt", "--seeds", "0"], "seeds"),
    (["ladder", "--data", "text.txt", "--minutes", "-1"], "minutes"),
    (["ladder", "--resume", "--seeds", "5"], "seeds"),
    (["ladder", "--data", "text.txt", "--minutes", "0.21", "-o", "run", "--overwrite"], "minutes"),
]


@pytest.mark.parametrize(("call", "word"), CALLS, ids=[" ".join(call)[:60] for call, _ in CALLS])
def test_a_bad_call_ends_in_one_line(
    call: list[str], word: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    code = main(call)
    lines = capfd.readouterr().err.strip().splitlines()
    lines = [line for line in lines if not line.startswith("compiling native code")]  # the first call on a machine
    assert code == 2
    assert len(lines) == 1, lines
    assert word in lines[0]
    assert "bug" not in lines[0]
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_there_are_sixty_of_them() -> None:
    assert len(CALLS) >= 60
