"""What /openapi.json says of the API is what it does: no answer that it does not name, none of 500."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from tests.serve.running import running, served

pytest.importorskip("fastapi")


def test_every_route_says_what_it_takes_and_answers() -> None:
    with running() as here:
        said = httpx.get(f"{here.url}/openapi.json", timeout=30).json()
    posts = {path: methods["post"] for path, methods in said["paths"].items() if "post" in methods}
    assert set(posts) == {"/v1/chat/completions", "/v1/completions", "/v1/score", "/tokenize", "/detokenize"}
    for about in posts.values():
        assert "requestBody" in about and {"200", "400", "429", "500", "503"} <= set(about["responses"])
    assert set(said["components"]["schemas"]["Chat"]["properties"]) >= {"messages", "tools", "response_format", "seed"}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("schemathesis") is None, reason="needs schemathesis")
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    with running(served(context=256)) as here:
        said = httpx.get(f"{here.url}/openapi.json", timeout=30).json()
        for name in ("Chat", "Complete"):  # else hardly a request names the model
            said["components"]["schemas"][name]["properties"]["model"] = {"enum": ["tiny"]}
        file = tmp_path / "openapi.json"
        file.write_text(json.dumps(said))
        call = [sys.executable, "-m", "schemathesis.cli", "run", str(file), "--url", here.url, "--max-examples", "40"]
        call += ["--checks", "not_a_server_error,response_schema_conformance,status_code_conformance"]
        call += ["--generation-deterministic", "--request-timeout", "60"]
        done = subprocess.run(call, capture_output=True, text=True, timeout=1500)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
