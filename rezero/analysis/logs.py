"""Traces for other viewers: as logs of Inspect (`inspect view`), and as traces in Trackio's dashboard."""

import json
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
        samples = _samples(episodes, policy, weights)
        scorers = list(dict.fromkeys(scorer for sample in samples for scorer in sample["scores"]))
        scores = [_mean(scorer, samples) for scorer in scorers]
        dataset = {"name": name, "samples": len({sample["id"] for sample in samples})}
        created = datetime.now(UTC).isoformat(timespec="seconds")
        log = {
            "version": 2,
            "status": "success",
            "eval": {"created": created, "task": name, "dataset": dataset, "model": f"rezero/{policy}", "config": {}},
            "results": {"total_samples": len(samples), "completed_samples": len(samples), "scores": scores},
            "samples": samples,
        }
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
            found = _found(episode, weights)
            messages = [message | {"content": clean(message["content"])} for message in episode.to_messages()]
            trackio.log({"episode": trackio.Trace(messages, metadata=found)}, step=number)
        trackio.finish()
    return [f"project {project!r} of Trackio: trackio show --project {project!r}"]


def _by_policy(rows: list[Row]) -> dict[str, list[Episode]]:
    policies: dict[str, list[Episode]] = {}
    for labels, episode in rows:
        policies.setdefault(str(labels.get("policy", "episodes")), []).append(episode)
    return policies


def _samples(episodes: list[Episode], policy: str, weights: dict[str, float] | None) -> list[dict]:
    samples, epochs = [], {}
    for number, episode in enumerate(episodes, start=1):
        found, messages, question = _found(episode, weights), episode.to_messages(), episode.question
        id = question.id if question else f"episode {number}"
        epochs[id] = epochs.get(id, 0) + 1
        spoken = [message for message in messages if message["role"] == "assistant"]
        choices = [{"message": message, "stop_reason": "stop"} for message in spoken[-1:]]
        why, answer, rewards = found["cause"], found["answer"] or "", found.pop("rewards")
        scores = {name: {"value": value} for name, value in rewards.items()}
        if question:
            verdict = {
                "value": "C" if why == "right" else "I",
                "answer": answer,
                "explanation": f"{why}: {CAUSES[why]}",
            }
            scores = {"exact_match": verdict} | scores
        samples.append(
            {
                "id": id,
                "epoch": epochs[id],
                "input": [dict(message) for message in episode.prompt] or "",
                "target": list(question.answers) if question else "",
                "messages": messages,
                "output": {"model": policy, "choices": choices, "completion": answer},
                "scores": scores,
                "metadata": found,
            }
        )
    return samples


def _found(episode: Episode, weights: dict[str, float] | None) -> dict:
    """What `facts` says, the cause, the faults and the rewards, as plain JSON; NaN becomes None."""
    total, rewards = score(episode, weights) if weights and episode.question else (None, {})
    found = {name: None if value != value else value for name, value in facts(episode).items()}
    return found | {"cause": cause(episode), "reward": total, "rewards": rewards}


def _mean(scorer: str, samples: list[dict]) -> dict:
    values = [sample["scores"][scorer]["value"] for sample in samples if scorer in sample["scores"]]
    metric = "accuracy" if scorer == "exact_match" else "mean"
    mean = float(np.mean([value == "C" if isinstance(value, str) else value for value in values]))
    return {"name": scorer, "scorer": scorer, "metrics": {metric: {"name": metric, "value": mean}}}
