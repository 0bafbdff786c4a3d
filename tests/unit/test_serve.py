"""`rlkit serve`: which keys and addresses it takes, what a server is started with, and the cluster examples."""

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlkit.cli.args import ServeArgs, TrainArgs
from rlkit.cli.settings import parse, with_algo
from rlkit.config import TrainConfig
from rlkit.errors import ConfigError
from rlkit.sampler_config import SamplerConfig
from rlkit.samplers.servers import Address, announce, gpus_of, read_addresses
from rlkit.samplers.vllm_command import ServerSpec, command, environment
from rlkit.samplers.vllm_guard import Guard
from rlkit.serve_config import ServeConfig

CLUSTER = Path(__file__).parents[2] / "examples/cluster"
SPEC = ServerSpec(
    model="m", dtype="bfloat16", max_model_len=512, on_gpu=True, tensor_parallel=2, backend="nccl"
)


def serve(*args: str) -> ServeConfig:
    cfg: ServeConfig = parse(ServeArgs, ServeConfig(), args, "rlkit serve").cfg
    return cfg


def test_loopback_makes_a_key_up_and_a_network_wants_one() -> None:
    assert serve().key(None) is None
    assert serve("--host", "10.0.0.7").key("secret") == "secret"
    assert serve("--host", "10.0.0.7", "--announce", "f").key(None) is None, "the file will tell it"
    with pytest.raises(ConfigError, match="need a key that the learner knows; set RLKIT_SERVER_KEY"):
        serve("--host", "10.0.0.7").key("")
    for everywhere in ("0.0.0.0", "::"):
        with pytest.raises(ConfigError, match="every network"):
            serve("--host", everywhere)


def test_a_key_is_in_no_argument_of_a_server() -> None:
    words = command(SPEC, "10.0.0.7", 8000)
    told = environment(SPEC, "10.0.0.7", "secret", "4,5")
    assert not [word for word in words if "secret" in word]
    assert told["VLLM_API_KEY"] == "secret" and told["CUDA_VISIBLE_DEVICES"] == "4,5"
    assert told["VLLM_HOST_IP"] == "10.0.0.7", "its other sockets listen there too"
    assert json.loads(words[words.index("--weight-transfer-config") + 1]) == {"backend": "nccl"}
    assert words[words.index("--logprobs-mode") + 1] == "processed_logprobs"
    assert words[words.index("--middleware") + 1] == "rlkit.samplers.vllm_guard.Guard"


def test_a_server_does_not_inherit_torchruns_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    told = environment(SPEC, "127.0.0.1", "k")
    assert "RANK" not in told and told["VLLM_LOGGING_LEVEL"] == "DEBUG", "what the user has set stays"


def test_a_guard_without_a_key_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async def app(*_: Any) -> None: ...

    monkeypatch.setenv("VLLM_API_KEY", "")
    with pytest.raises(ValueError, match="VLLM_API_KEY is empty"):
        Guard(app)


def test_gpus_are_dealt_out_in_order() -> None:
    assert [gpus_of(i, [4, 5, 6, 7], 2) for i in range(2)] == ["4,5", "6,7"]
    assert [gpus_of(i, [4], 1) for i in range(2)] == ["4", "4"]
    assert gpus_of(0, [], 2) == ""


def test_a_file_of_addresses_may_grow_and_the_last_word_about_one_counts(tmp_path: Path) -> None:
    path = tmp_path / "servers"
    assert read_addresses(f"@{path}") == []
    announce(path, Address("http://a:1", "old"))
    path.write_text(path.read_text() + "# by hand:\n\nhttp://b:2/\n")
    announce(path, Address("http://a:1", "new"))
    assert read_addresses(f"@{path}") == [Address("http://a:1", "new"), Address("http://b:2", "")]
    path.write_text('{"host": "a"}\n')
    with pytest.raises(ConfigError, match="neither an address nor a line of `rlkit serve --announce`"):
        read_addresses(f"@{path}")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "vllm", "replicas": 2}, "sampler.replicas = 2: expected 1 with a sampler in this process"),
        ({"name": "hf", "urls": "http://a:1"}, "expected none without --sampler vllm-server"),
        ({"name": "vllm-server", "urls": "a:1"}, "expected http://HOST:PORT"),
        ({"name": "vllm-server", "gpus": "0-3"}, "expected numbers, as 0,1,2,3"),
        ({"name": "vllm-server", "deadline": 0.0}, "expected a positive number of seconds"),
        ({"name": "vllm-server", "restarts": -1}, "expected 0"),
    ],
)
def test_settings_of_a_fleet_are_checked(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence.replace("(", "[(]")):
        SamplerConfig(**settings)


# -- the cluster examples


def test_the_slurm_example_is_a_script_whose_commands_parse() -> None:
    path = CLUSTER / "rollouts.sbatch"
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text().replace("\\\n", " ").replace('"$(hostname -I | cut -d" " -f1)"', "10.0.0.7")
    (line,) = [line for line in text.splitlines() if "rlkit serve" in line]
    flags = shlex.split(line.partition("rlkit serve")[2].partition("'")[0])
    assert serve(*flags).host == "10.0.0.7" and serve(*flags).replicas == 8
    (line,) = [line for line in text.splitlines() if "-m rlkit train" in line]
    words = shlex.split(line.partition("-m rlkit train")[2].rstrip("& "))
    at = words.index("--config")
    flags = [word for i, word in enumerate(words) if i not in (at, at + 1)]
    cfg = parse(TrainArgs, with_algo(TrainConfig(), flags), flags, "rlkit train").cfg
    assert cfg.sampler.urls == "@$SERVERS" and cfg.learner.shard == "fsdp2"


def test_the_kubernetes_example_names_every_server_and_no_key() -> None:
    objects = {
        (o["kind"], o["metadata"]["name"]): o
        for o in yaml.safe_load_all((CLUSTER / "rollouts.yaml").read_text())
    }
    assert {kind for kind, _ in objects} == {"Service", "NetworkPolicy", "StatefulSet", "Job"}
    servers = objects["StatefulSet", "rollout"]["spec"]
    (server,) = servers["template"]["spec"]["containers"]
    words = [word.replace("$(POD_IP)", "10.0.0.7") for word in server["command"]]
    assert words[:2] == ["rlkit", "serve"]
    serve(*words[2:]).key(os.environ.get("NO_SUCH_KEY", "from the secret"))
    (learner,) = objects["Job", "learner"]["spec"]["template"]["spec"]["containers"]
    (script,) = learner["args"]
    for number in range(servers["replicas"]):
        assert f"http://rollout-{number}.rollout:8000" in script
    assert [e["name"] for e in learner["env"]] == ["RLKIT_SERVER_KEY"]
    assert "valueFrom" in learner["env"][0]
