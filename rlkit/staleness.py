"""What `--async-steps` means for a run, in words, before it begins."""

from rlkit.config import TrainConfig


def lines(cfg: TrainConfig) -> list[str]:
    """For the pre-flight; none without overlap."""
    k, updates = cfg.async_steps, cfg.updates_per_step
    if k == 0:
        return []
    old = f"{k} step{'s' * (k > 1)}"
    old += f" ({k * updates} updates)" if updates > 1 else ""
    said = [
        f"the rollouts of step t + {k} are written while step t trains, so answers are {old} old when they are learnt from "
        "(metric `staleness`, in updates)"
    ]
    if cfg.algo.importance_sampling_correction:
        how = cfg.algo.importance_sampling_mode.replace("_", ", ")
        said.append(f"off-policy correction: {how} at {cfg.algo.importance_sampling_clip_max:g}")
    if cfg.sampler.in_flight_updates:
        said.append(
            "new weights reach the servers while answers are written, so the end of an answer may be younger than its beginning"
        )
    said.append(
        "reproducible bit for bit, on a CPU"
        if cfg.sampler.on_these_cores
        else "the same prompts, seeds and order in every run"
    )
    return said


def warnings(cfg: TrainConfig, on_gpu: bool) -> list[str]:
    if cfg.async_steps == 0:
        return []
    found = []
    if not cfg.algo.importance_sampling_correction:
        found.append(
            f"async-steps {cfg.async_steps} without off-policy correction: answers of older weights are learnt from as if the present "
            "ones had written them; leave --algo.importance-sampling-correction on"
        )
    if on_gpu and cfg.sampler.on_these_cores:
        found.append(
            f"async-steps {cfg.async_steps} with --sampler {cfg.sampler.name}: sampler and learner compute on one GPU, where they slow each "
            "other, and neither gives its memory to the other; --sampler vllm-server with --sampler.gpus of its own is what overlap is for"
        )
    return found


def problems(cfg: TrainConfig, ranks: int) -> list[str]:
    """What `--async-steps` cannot do."""
    if cfg.sampler.in_flight_updates and ranks > 1:
        return [
            f"sampler.in-flight-updates with {ranks} ranks: what they tell each other of rollouts and of new weights would meet in one "
            "process group; use one rank, or leave it out"
        ]
    return []
