"""Plan the arms of a sweep.

An arm is a dict of notebook 02's parameters, such as {"reward_set": "recovery", "overrides": {"engine": "dense"}}.
"""

from itertools import product

from rezero.config import MERGED


def named(arms: list[dict]) -> list[dict]:
    """The arms, those without a "name" called by their words: the one above is "recovery-dense"."""
    made = []
    for arm in arms:
        values = [*arm.values(), *arm.get("overrides", {}).values()]
        words = [value for value in values if isinstance(value, str) and "/" not in value]
        made.append({"name": "-".join(words), **arm})
    return made


def plan(arms: list[dict], seeds: list[int], **shared) -> dict[str, dict]:
    """The jobs of a sweep, every arm with every seed: {job: parameters of notebook 02}.

    `shared` are parameters of all arms; what an arm sets itself wins, in `overrides` entry by entry. How difficult the
    training questions are is measured with the first seed, once for all arms that agree in the rest that it depends
    on. Training never stops early, so that arms stay comparable. Two different arms with the same name are a
    ValueError.
    """
    jobs: dict[str, dict] = {}
    for seed, arm in product(seeds, named(arms)):
        parameters = {"test": False, **shared, "seed": seed, **arm}
        job = f"{parameters.pop('name')}-{parameters['seed']}"
        base, own = shared.get("overrides", {}), arm.get("overrides", {})
        overrides = base | own | {name: base[name] | own[name] for name in MERGED if name in base and name in own}
        curriculum = {"seed": seeds[0]} | overrides.get("curriculum", {})
        parameters["overrides"] = {"patience": 0} | overrides | {"curriculum": curriculum}
        if jobs.setdefault(job, parameters) != parameters:
            raise ValueError(f"two arms are called {arm['name']!r}; name one of them: {{'name': 'other', ...}}")
    return jobs
