"""Traces for other viewers: as logs of Inspect (`inspect view`), and as traces in Trackio's dashboard."""

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from rezero.analysis.causes import CAUSES, cause
from rezero.evaluation.traces import Row, facts
from rezero.files import write_text
from rezero.protocol import Episode
from rezero.rewards import score
from rezero.search.base import needs
from rezero.text import clean, normalized


def write_inspect(name: str, rows: list[Row], weights: dict[str, float] | None, folder: Path) -> list[str]:
    """One log of version 2 per policy, which Inspect 0.3 reads and views; returns the paths.

    A sample is an episode as it was written, tags included, and repetitions of a question are its epochs. It is scored
    by exact match, with the cause as explanation, and by each reward.
    """
    paths = []
    for policy, episodes in _by_policy(rows).items():
        samples, created = _samples(episodes, policy, weights), datetime.now(UTC).isoformat(timespec="seconds")
        scores = [_mean(scorer, samples) for scorer in dict.fromkeys(s for one in samples for s in one["scores"])]
        dataset = {"name": name, "samples": len({sample["id"] for sample in samples})}
        spec = {"created": created, "task": name, "dataset": dataset, "model": f"rezero/{policy}", "config": {}}
        results = {"total_samples": len(samples), "completed_samples": len(samples), "scores": scores}
        log = {"version": 2, "status": "success", "eval": spec, "results": results, "samples": samples}
        path = folder / f"{'-'.join(normalized(f'{name} {policy}').split())}.json"
        paths.append(str(write_text(path, clean(json.dumps(log, ensure_ascii=False)))))
    return paths


def write_trackio(name: str, rows: list[Row], weights: dict[str, float] | None, project: str) -> list[str]:
    """One Trackio run per policy in a local project, one trace per episode; Trackio is an optional package.

    Trackio keeps them where TRACKIO_DIR says, and `trackio show --project …` opens them.
    """
    with needs("trackio", "traces for Trackio"):
        import trackio
    for policy, episodes in _by_policy(rows).items():
        trackio.init(project, name=f"{name} {policy}", embed=False, auto_log_gpu=False, auto_log_cpu=False)
        for number, episode in enumerate(episodes):
            messages = [message | {"content": clean(message["content"])} for message in episode.to_messages()]
            trackio.log({"episode": trackio.Trace(messages, metadata=_found(episode, weights))}, step=number)
        trackio.finish()
    return [f"project {project!r} of Trackio: trackio show --project {project!r}"]


def _by_policy(rows: list[Row]) -> dict[str, list[Episode]]:
    policies: dict[str, list[Episode]] = {}
    for labels, episode in rows:
        policies.setdefault(str(labels.get("policy", "episodes")), []).append(episode)
    return policies


def _samples(episodes: list[Episode], policy: str, weights: dict[str, float] | None) -> list[dict]:
    samples, epochs = [], Counter()
    for number, episode in enumerate(episodes, start=1):
        found, messages, question = _found(episode, weights), episode.to_messages(), episode.question
        rewards, why = found.pop("rewards"), found["cause"]
        scores = {name: {"value": value} for name, value in rewards.items() if value is not None}
        answer, id = found["answer"] or "", question.id if question else f"episode {number}"
        if question:
            verdict = dict(value="C" if why == "right" else "I", answer=answer, explanation=f"{why}: {CAUSES[why]}")
            scores = {"exact_match": verdict} | scores
        epochs[id] += 1
        last = [message for message in messages if message["role"] == "assistant"][-1:]
        choices = [{"message": message, "stop_reason": "stop"} for message in last]
        output = {"model": policy, "choices": choices, "completion": answer}
        sample = {"id": id, "epoch": epochs[id], "input": list(episode.prompt) or "", "messages": messages}
        sample |= {"target": list(question.answers) if question else "", "output": output, "scores": scores}
        samples.append(sample | {"metadata": found})
    return samples


def _found(episode: Episode, weights: dict[str, float] | None) -> dict:
    """What `facts` says, the cause and the rewards, as plain JSON; NaN becomes None."""
    total, rewards = score(episode, weights) if weights and episode.question else (None, {})
    found = {name: None if value != value else value for name, value in facts(episode).items()}
    return found | {"cause": cause(episode), "reward": total, "rewards": rewards}


def _mean(name: str, samples: list[dict]) -> dict:
    values = [sample["scores"][name]["value"] for sample in samples if name in sample["scores"]]
    mean = float(np.mean([{"C": 1, "I": 0}.get(value, value) for value in values]))
    metric = "accuracy" if name == "exact_match" else "mean"
    return {"name": name, "scorer": name, "metrics": {metric: {"name": metric, "value": mean}}}
