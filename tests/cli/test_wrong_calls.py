"""Wrong calls as newcomers make them: the one line names what was given, what was expected, and what to do."""

import json
import shlex
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from fathom.cli.main import main

TEXT = "To be, or not to be, that is the question. " * 60
SMALL = "--max-iters 2 --model.d-model 16 --model.n-layer 1 --model.n-head 2 --context-length 16 --eval-interval 2"
SMALL += " --device cpu --dtype fp32"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder as a newcomer's: texts, records, two runs, exported files and damaged copies of them."""
    folder = tmp_path_factory.mktemp("newcomer")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("text.txt").write_text(TEXT)
        Path("mine.txt").write_text(TEXT)
        Path("my.yaml").write_text("train: {}\n")
        Path("bad.jsonl").write_text('{"prompt": "a"}\n')
        Path("some.jsonl").write_text((json.dumps({"prompt": "To", "completion": " be"}) + "\n") * 9)
        Path("empty").mkdir()
        Path("torn.jsonl.zst").write_bytes(zstandard.compress(b'{"text": "a"}\n' * 9)[:-3])
        Path("latin.txt").write_bytes(b"caf\xe9\n" * 9)
        Path("blank.txt").write_bytes(b"")
        pyarrow.parquet.write_table(pyarrow.table({"body": ["a"], "n": [1]}), "body.parquet")
        Path("folder.html").mkdir()
        train = f"train llama-tiny --data text.txt --tokenizer byte {SMALL} --train.sample-interval none -o".split()
        assert main([*train, "runs/a"]) == 0
        shutil.copytree("runs/a", "runs/b")
        assert main(["export", "runs/a", "--format", "gguf", "-o", "model.gguf"]) == 0
        assert main(["export", "runs/a", "--format", "hf", "-o", "hf"]) == 0
        Path("cut.gguf").write_bytes(Path("model.gguf").read_bytes()[:-100])
        Path("head.gguf").write_bytes(Path("model.gguf").read_bytes()[:300])
        for name, end in (("cut", -40), ("head", 50)):
            shutil.copytree("hf", name)
            (folder / name / "model.safetensors").write_bytes(Path("hf/model.safetensors").read_bytes()[:end])
        Path("alone").mkdir()
        shutil.copy("hf/model.safetensors", "alone/model.safetensors")
        assert main([*train, "chars", "--tokenizer", "char"]) == 0
        assert main(["finetune", "runs/a", "--data", "some.jsonl", "--max-iters", "1", "-o", "lora"]) == 0
        Path("book.pdf").write_bytes(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
        Path("table.parquet").write_bytes(b"PAR1\x15\x04\x15\xcc\x01")
        with zipfile.ZipFile("archive.zip", "w") as archive:
            archive.writestr("text.txt", TEXT)
        assert main(["prepare", "text.txt", "--tokenizer", "byte", "-o", "tokens"]) == 0
        yield folder


CALLS = """
# a text, a file or a word in the wrong place
train mine.txt | mine.txt is a file, not a preset | did you mean --data mine.txt?
train empty | empty is a folder, not a preset | did you mean --data empty?
train my.yaml | my.yaml is a file, not a preset | did you mean -c my.yaml?
train gone.txt | gone.txt is a file, not a preset | --data gone.txt
train demo text.txt | unexpected 'text.txt'; expected PRESET only | did you mean --data "text.txt"?
train demo gpt2 | unexpected 'gpt2'; expected PRESET only | for example: fathom train
train https://example.com/a.txt | https://example.com/a.txt is a URL; expected a file | download it first (curl -LO
train --data https://example.com/a.txt | is a URL; expected a file, a folder or one of | download it first
train --data https://example.com/a.jsonl | https://example.com/a.jsonl is a URL; expected a file | download it first
eval runs/a --data https://example.com/a.jsonl | https://example.com/a.jsonl is a URL; expected a file | download it
info https://example.com/m.gguf | https://example.com/m.gguf is a URL | a file that you downloaded
train --data text.txt --epochs 3 | expected --max-iters, in steps: an epoch of text.txt is about | --max-iters 6
train --epochs many | --epochs is 'many'; expected --max-iters | --max-iters N
generate runs/a 'To be' | unexpected 'To be'; expected MODEL only | did you mean -p "To be"?
generate runs/a To be or | unexpected 'To be or'; expected MODEL only | did you mean -p "To be or"?
chat runs/a hello | unexpected 'hello'; expected MODEL only | for example: fathom chat
finetune runs/a some.jsonl | unexpected 'some.jsonl'; expected MODEL only | did you mean --data "some.jsonl"?
presets demo gpt2 | unexpected 'gpt2'; expected NAME only | for example: fathom presets
help train me | unexpected 'me'; expected VERB only | for example: fathom help train
# something is missing
generate | generate needs MODEL | for example: fathom generate runs/demo -p
chat | chat needs MODEL | for example: fathom chat
info | info needs MODEL | for example: fathom info
export | export needs MODEL | --format gguf -o demo.gguf
export runs/a | export needs --format | for example: fathom export
merge runs/a | merge needs ADAPTER | for example: fathom merge
merge runs/a hf | merge needs --out | -o merged
extract runs/a | extract needs TUNED | for example: fathom extract
bench | bench needs WORK | for example: fathom bench decode
svd | svd needs MODEL | for example: fathom svd
verify | verify needs MODEL | for example: fathom verify
show-batch runs/a | show-batch needs --data | for example: fathom show-batch
completion | completion needs SHELL | fathom completion zsh
finetune runs/a | finetune needs a model and data | for example: fathom finetune
train --lr | --lr needs a value | see fathom train --help
train --data | --data needs a value | see fathom train --help
generate runs/a -n | -n needs a value | see fathom generate --help
# no such thing
trian | no verb 'trian' | did you mean train
help trian | no verb 'trian' | did you mean train
presets gpt-2 | no preset 'gpt-2' | did you mean gpt2
completion tcsh | no completion for 'tcsh' | one of bash, zsh, fish
generate runs/c | runs/c does not exist; runs holds | give a run folder
generate runs | runs is not a model but a folder with the models | give one of them
info empty | empty holds no model in a supported format | give a run folder
info text.txt | text.txt holds no model in a supported format | give a run folder
generate runs/a --temprature 1 | no option --temprature | did you mean --temperature
train --models.n-layer 3 | no option --models.n-layer; did you mean --model.n-layer | See fathom train --help-all
finetune runs/a --tokenizer byte | no option --tokenizer | See fathom finetune --help-all
info runs/a --device cpu | no option --device | fathom info --help-all
extract runs/a runs/b -o x --seed 3 | no option --seed | fathom extract --help-all
--versoin | no option --versoin | did you mean --version?
eval runs/a --data gone.txt | no file, folder or corpus 'gone.txt' | the corpora are python-docs
finetune runs/a --data gone.jsonl | gone.jsonl: cannot be read (no such file or directory) | give a file
generate runs/a -p FILE:gone.txt | gone.txt | no such file
generate runs/a --adapter gone | gone does not exist | give the folder of an adapter
svd runs/a --only attn.z | has no matrix 'attn.z' | it has embed.weight
extract runs/a runs/b -o x --target attn.z | 'attn.z' fits no layer | did you mean attn.v
ladder --data text.txt --rungs bigramm | no rung 'bigramm' | did you mean bigram?
# values
generate runs/a -t hot | --temperature is 'hot' | expected a number
generate runs/a -n many | --max-new-tokens is 'many' | expected a whole number
generate runs/a --top-p 1.5 | top_p is 1.5 | expected a probability above 0 and up to 1
generate runs/a --samplers top_k,top_k | samplers names top_k 2 times | expected each at most once
generate runs/a --samplers top_k --min-p 0.2 | min_p is 0.2 but samplers is 'top_k' | add min_p to it
generate runs/a --past-context slidee | --past-context is 'slidee' | Choose one of slide, stop, extend
generate runs/a --speculate lookahead | --speculate is 'lookahead' | did you mean lookup?
generate runs/a --quantize int3 | quantize is 'int3' | Choose one of int8, int4, nf4
generate runs/a --rope-scaling yarm:4 | kind is 'yarm' | did you mean yarn?
generate runs/a --rope-scaling yarn:0.5 | rope_scaling is 'yarn:0.5' | expected a factor above 1, such as yarn:4
generate runs/a --seed -1 | seed is -1 | expected a whole number from 0
generate chars -p zebra | 'z' (U+007A LATIN SMALL LETTER Z) at position 0 | --tokenizer byte or bpe:SIZE
train --model.rope scaling=yarn | scaling is 'yarn' | expected KIND:FACTOR
train --model.rope yarn:4 | --model.rope is 'yarn:4' | expected NAME=VALUE,... of theta, rotated, local_theta, scaling
train --model.layers lx | layers.pattern='lx' | expected letters g (all), l (a window) and n
train --model.layers lg | layers=lg:None | need a window of at least 1
train --train.schedule cosin | --train.schedule is 'cosin' | did you mean cosine?
train --grad-accumulation 0 | --grad-accumulation is '0' | expected a whole number of at least 1
finetune runs/a --data some.jsonl --method lorra | --method is 'lorra' | did you mean lora
finetune runs/a --data some.jsonl --epochs 2 --max-iters 4 | epochs and max_iters are mutually exclusive | give one
finetune runs/a --data bad.jsonl | bad.jsonl, record 1: the fields are 'prompt' | expected one of messages
eval runs/a --data text.txt --windows -3 | windows is -3 | expected at least 1
show-batch runs/a --data text.txt --count 0 | --count is '0' | expected a whole number of at least 1
verify runs/a --against naiv | no reference 'naiv' | did you mean naive
export runs/a --format gguff -o x | format is 'gguff' | did you mean gguf?
export runs/a --format gguf -o x --quantize q3 | quantize is 'q3' | choose one of f32, f16, bf16, q8_0, q6_k
export runs/a --format hf -o hf | hf exists | give another -o, or remove it
merge runs/a hf -o x | hf holds no adapter_config.json | give the folder of an adapter
merge runs/a hf -o x --scale big | --scale is 'big' | expected a number
svd runs/a --report page.pdf | --report is page.pdf | expected a name that ends in .html
svd runs/a --minutes 3 | minutes was given without --loss-vs-rank | add that, or leave it out
extract runs/a runs/b -o x -r 0 | --rank is '0' | expected a whole number of at least 1
bench fly | work is 'fly' | choose one of decode, prefill, train
bench decode --shape 8B | --shape is '8B' | did you mean 7B?
bench train --plain | --plain has no meaning for train | leave it out
plan | plan needs MODEL | for example: fathom plan gpt2 --devices
plan gpt3 | no preset or model 'gpt3' | did you mean gpt2, gpt2-xl, gpt-cpu?
plan gpt2 --devices 8xH10 | --devices is '8xH10' | did you mean H100
plan gpt2 --devices V9 | --devices is 'V9' | known devices are A100-40GB
plan gpt2 --devices 0xH100 | --devices is '0xH100' | expected at least one, such as 1xH100
plan gpt2 --devices A100 | which may be A100-40GB, A100-80GB | such as 8xA100-40GB
plan gpt2 --devices H100 --tokens ten | --tokens is 'ten' | such as 300M, 2.5B or 2T
plan gpt2 --devices 8xH100 --batch 4 | --batch is 4 sequences, fewer than 8 devices | give --batch 8
plan gpt2 --devices 8xH100 --batch 12 | not a multiple of 8 devices | give --batch 8 or 16
plan gpt2 --devices H100 --method dora | --method is 'dora' | Choose one of full, lora, qlora
plan gpt2 --devices H100 --mfu 40 | mfu is 40 | such as 0.4
plan gpt2 H100 | unexpected 'H100'; expected MODEL only | for example: fathom plan gpt2
plan gone.yaml | gone.yaml does not exist | give a YAML file
plan mine.txt | mine.txt holds no model in a supported format | give
ladder --resume --overwrite | --resume and --overwrite are mutually exclusive | give one of them
# damaged files
info cut.gguf | cut.gguf: GGUF file, cut off: tensor | fetch it again
info head.gguf | head.gguf: GGUF file, cut off or damaged | fetch it again
info cut | cut/model.safetensors: safetensors file, cut off | fetch it again
info head | head/model.safetensors: safetensors file, cut off at byte 50 | fetch it again
info alone/model.safetensors | no config.json beside these weights | put the model's own in the same folder
# where nothing can be written
train --data text.txt -o /proc/x | /proc/x: the folder cannot be created | give another folder
finetune runs/a --data some.jsonl -o /proc/x | /proc/x: the folder cannot be created | give another folder
export runs/a --format gguf -o /proc/x | /proc/x: cannot be written | give another path
export runs/a --format hf -o /proc/x | /proc/x: cannot be written | give another path
# an option before the verb, a Python function as a verb
--debug train | no option --debug before the verb; options follow it | see fathom --help
-v | no option -v before the verb | options follow it, as in fathom info runs/demo --json
look runs/a | look needs --prompt | for example: fathom look runs/demo -p
serve runs/a --host 0.0.0.0 | --host is 0.0.0.0 | ssh -L 8000:127.0.0.1:8000
serve runs/a --port 70000 | --port is 70000 | expected 0 to 65535
serve runs/a --adapter lora | --adapter is lora | expected NAME=FOLDER
serve runs/a hf/../runs/a | two models are called a | rename a folder
serve runs/a --api-key-file gone | --api-key-file gone cannot be read | a key on each line
serve runs/a --max-tokens-in-flight 3 | --max-tokens-in-flight is '3' | at least 16
chat --url gone | --url is 'gone' | such as http://127.0.0.1:8000
chat runs/a --url http://127.0.0.1:1 | runs/a is given beside --url | --model NAME
serve | serve needs MODEL... | for example: fathom serve runs/demo
look runs/a -p hi -o page.pdf | --out is page.pdf | expected a name that ends in .html
look runs/a -p hi --beside '' | --beside is empty | expected a second model
look runs/a -p hi --panels head | no panel is called 'head' | did you mean heads? Panels are
look runs/a -p hi --panels , | no panel is called '' | panels are
look runs/a -p hi -o folder.html | --out is folder.html, which is a folder | give the name of a file
look runs/a -p hi --png mine.txt/there | mine.txt is a file | expected a folder
look runs/a -p hi --seed 99999999999999999999 | --seed is 99999999999999999999 | at most 2^63 - 1
serve runs/a -p 'To be, or not to be' | the prompt has 19 tokens, more than the 16 of the model's context | shorten it
serve runs/a gone.gguf | gone.gguf does not exist | Give a run folder
serve runs/a cut.gguf | cut.gguf: GGUF file, cut off: tensor | fetch it again
serve runs/a --adapter poet=gone | gone does not exist | give the folder of an adapter
serve runs/a --adapter poet=hf | hf holds no adapter_config.json | give the folder of an adapter
evaluate runs/a | evaluate is not a verb but a Python function | did you mean fathom eval?
chat runs/a -p hi | no option -p | see fathom chat --help-all
presets --frobnicate | no option --frobnicate | see fathom presets --help-all
# a part for the whole, one kind of file for another
generate runs/a/config.yaml | runs/a/config.yaml holds no model | did you mean runs/a, of which it is a part?
generate hf/tokenizer.json | hf/tokenizer.json holds no model | did you mean hf, of which it is a part?
generate runs/a/checkpoints | runs/a/checkpoints is not a model but a folder with a model | give one of them
info gone.gguf | gone.gguf does not exist | .gguf? Give a run folder
tokenize x hf/config.json | hf/config.json: it holds no tokenizer | or a tokenizer.json
train --data runs/a -o new | runs/a: is a run, not a text | expected a file of text or a folder of them
train --data book.pdf -o new | book.pdf: byte 10 is 0xe2; expected text in UTF-8 | extract its text first
train --data archive.zip -o new | archive.zip: byte | it is a zip archive, as .docx and .epub files are: unpack it
train --data table.parquet -o new | table.parquet: byte 7 is 0xcc; expected text | fathom prepare makes tokens of it
show-batch runs/a --data model.gguf | model.gguf: byte | it is a model in GGUF: give a text
eval runs/a text.txt | unexpected 'text.txt'; expected MODEL only | did you mean --data "text.txt"?
verify runs/a hf | unexpected 'hf'; expected MODEL only | did you mean --against file:hf?
bench runs/a | work is 'runs/a' | choose one of decode, prefill
finetune some.jsonl runs/a | unexpected 'runs/a'; expected MODEL only | did you mean --data "runs/a"?
merge lora runs/a -o x | lora holds an adapter of | give that model, or merge the two
export lora/adapter --format hf -o x | lora/adapter is an adapter | fathom merge MODEL ADAPTER -o FOLDER
svd runs/a --adapter hf | hf holds no adapter_config.json | give the folder of an adapter
train -c runs/a/metrics.jsonl | runs/a/metrics.jsonl is not YAML | (line 2)
# two things that do not go together
eval runs/a --tasks hellaswag --data text.txt | --data was given with --tasks | choose one of the two
eval runs/a --limit 3 | --limit was given without --tasks | leave it out
eval runs/a --tasks hellaswag --limit 1.5 | limit is 1.5 | expected a whole number, or a share
train demo --log tensorbord -o new | log='tensorbord' | did you mean tensorboard? Choose from tensorboard, wandb
generate runs/a --draft runs/b --speculate lookup | speculate is 'lookup' and there is a draft model | choose one
generate runs/a --draft chars | the draft model has another vocabulary | choose one with the same tokenizer
verify runs/a --against file:chars | chars has 16 tokens and the model 256 | they cannot be compared
extract runs/a chars -o x | 'embed.weight' is (256, 16) | not two versions of one model
extract runs/a runs/a -o x | runs/a has the weights of runs/a | nothing to extract
merge chars lora/adapter -o x | lora/adapter is an adapter of another model than chars | give that model
bench decode runs/a --shape 110M | model runs/a and shape 110M were both given | expected one of them
bench train --quantize int8 | packed weights cannot be trained | leave it out, or use finetune
finetune runs/a --data text.txt --method full --rank 4 | method full trains all weights | leave it out
finetune runs/a --data text.txt --quantize int8 | quantize=int8 with method lora | use method qlora
finetune runs/a --data text.txt --pack | text.txt is text, all of which is learned | leave it out
train --resume -o runs/a --lr 0.1 | created with learning_rate=0.002, not 0.1 | or train in another --out-dir
tokenize x byte --data text.txt | byte has its vocabulary already | --data is for char and bpe:SIZE
export runs/a --format hf --quantize q8_0 -o x | quantize is 'q8_0', which hf files do not have | leave it out
export chars --format gguf -o x | a char tokenizer; GGUF | supports only sentencepiece, bpe, byte
# values at and beyond their ends
eval runs/a --stride 0 | stride is 0 | expected 1 to 16, the model's context length
eval runs/a --stride 5000 | stride is 5000 | expected 1 to 16, the model's context length
generate runs/a --rope-scaling yarn | rope_scaling is 'yarn' | expected KIND:FACTOR, such as yarn:4
generate runs/a -t inf | temperature is inf | expected 0 (always the likeliest token) or more
generate runs/a --stop '' | a stop string is empty | expected at least one character
finetune runs/a --data text.txt --rank 0 | rank is 0 | expected at least 1, such as 8
finetune runs/a --data text.txt --alpha -1 | alpha is -1.0 | expected a number above 0
finetune runs/a --data some.jsonl -r 5000 | rank 5000 is larger than blocks.0.attn.q, 16 x 16 | give at most 16
finetune runs/a --data some.jsonl --context-length 1 | nothing is left to learn | raise --context-length
extract runs/a runs/b -o x -r 99 | rank 99 is larger than | give at most 16
ladder --steps 0 | steps is 0 | it must be at least 1
ladder --rungs bigram,,depth | rungs has an empty name | expected names separated by commas
train demo --max-iters 1e3 -o new | --max-iters is '1e3' | expected a whole number
train demo --train.betas 0.9 -o new | betas=(0.9,) | expected two numbers from 0 to below 1
bench decode --new 3 | new is 3 and the first 4 steps are not timed | expected more
svd runs/a --loss-vs-rank --keep 5 | keep is 5.0 | between 0 and 1, such as 0.9
# text of any size
prepare | prepare needs DATA | for example: fathom prepare
prepare text.txt -o x | prepare needs --tokenizer | for example: fathom prepare
prepare text.txt --tokenizer byte | prepare needs --out | for example: fathom prepare
prepare body.parquet --tokenizer byte -o x | no column 'text'; its columns are body, n | with --field NAME
prepare body.parquet --field bdy --tokenizer byte -o x | no column 'bdy' | did you mean body?
prepare torn.jsonl.zst --tokenizer byte -o x | torn.jsonl.zst: its compressed data are damaged | copy it again
prepare latin.txt --tokenizer byte -o x | latin.txt: byte 3 is 0xe9; expected text in UTF-8 | convert it to UTF-8
prepare some.jsonl --tokenizer byte -o x | some.jsonl, line 1: no field 'text', found 'prompt' | completion
prepare blank.txt --tokenizer byte -o x | blank.txt: no documents | expected text to learn from
prepare text.txt --tokenizer byte -o empty/.. | exists and holds something else | give -o a new folder
prepare text.txt --tokenizer byte -o mine.txt | mine.txt is a file | give -o a new folder
prepare text.txt=-1 mine.txt=1 --tokenizer byte -o x | the weight is '-1' | expected a number above 0
prepare text.txt=nan mine.txt=1 --tokenizer byte -o x | the weight is 'nan' | expected a number above 0
prepare text.txt=much --tokenizer byte -o x | the weight is 'much' | as in text.txt=0.7
prepare text.txt=1 mine.txt --tokenizer byte -o x | mine.txt has no weight, and others have | give each one
prepare text.txt ./text.txt --tokenizer byte -o x | is given twice, in text.txt and in ./text.txt | leave one out
prepare text.txt --tokenizer byt -o x | tokenizer 'byt': expected char, byte, bpe:SIZE | did you mean byte?
prepare text.txt --tokenizer byte -o x --workers 0 | --workers is '0' | expected a whole number of at least 1
prepare text.txt --tokenizer byte -o x --val-fraction 1 | val_fraction is 1.0 | such as 0.01
prepare text.txt --tokenizer byte -o x --val-fraction some | --val-fraction is 'some' | such as 0.01
prepare empty --tokenizer byte -o x | empty: no texts in this folder | expected files ending in
prepare gone.txt --tokenizer byte -o x | no file, folder or corpus 'gone.txt' | the corpora are
prepare text.txt --tokenizer char -o tokens | tokens was begun with tokenizer "byte" | give -o another folder
prepare mine.txt --tokenizer byte -o tokens | tokens was begun with data [["text.txt", null]] | repeat that call
train --data tokens --tokenizer char -o x | --tokenizer is char, and tokens was made with byte | leave it out
train --data tokens -o x | tokens: no documents are held out for validation | with a larger --val-fraction
finetune runs/a --data tokens --val-data text.txt | holds documents to validate on | leave it out
finetune chars --data tokens -o x | made with another tokenizer | prepare the data again with --tokenizer
show-batch chars --data tokens | made with another tokenizer | prepare the data again with --tokenizer
eval runs/a --data tokens | tokens: holds tokens and no text | fathom train, finetune and show-batch read them
"""
ROWS = [[part.strip() for part in line.split(" | ")] for line in CALLS.splitlines() if line and line[0] != "#"]


@pytest.mark.parametrize(("call", "given", "to_do"), ROWS, ids=[call[:70] for call, *_ in ROWS])
def test_the_line_names_what_was_given_and_what_to_do(
    call: str, given: str, to_do: str, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    code = main(shlex.split(call))
    out, err = capfd.readouterr()
    line = err.strip().splitlines()[-1]
    assert (code, out) == (2, "")
    assert line.startswith("fathom: ") and given in line and to_do in line
    assert "this is a bug" not in line and "Traceback" not in err
    assert sorted(place.rglob("*")) == before


def test_there_are_many_of_them() -> None:
    assert len(ROWS) >= 150 and len({call for call, *_ in ROWS}) == len(ROWS)
