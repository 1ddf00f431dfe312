"""ReZero: teach a small language model to search, and to search again when a search failed.

Read the core in this order; each module imports only modules listed before it.

    text, files, names    helpers for text; paths, JSON Lines, atomic writes, a cache; functions by name
    config, profiles/     everything a run depends on, and the named profiles
    judge                 is an answer right? Exact match and F1
    corpus, questions     passages; questions, and their splits
    search/               engines: base (Engine, Hit), bm25, dense, hybrid, faulty
    protocol              tags and prompts, Turn, Episode; missed, retried, recovered are defined here
    task                  an engine, questions by split, and what an episode may spend; the sealed test
    search_env            what comes back for a turn
    policy/               a language model with its tokenizer, sampling with a cache, loading
    rewards/              published (to the letter), ours; sets of weights
    rollout               batched multi-turn episodes, token ids in and out
    evaluation/           tables with intervals, traces
    training/             GRPO through TRL, curriculum, checkpoints, the collapse sentinel

The wings use the core, which never imports them; optional parts are reached by name.

    warmstart/            scripted searchers, and a starting policy that imitates them
    data/                 documents and public sets as corpora; questions, splits, leaks, noise, checks for any corpus
    analysis/             baselines, reward lab, the map, retrieval, collapse, figures, cards, causes, reports, logs
    extras/               further and remote engines, SmolLM2, Unsloth, what makes a step fast, serve, ask, export, …
    runner/               executes the notebooks (knows nothing of reinforcement learning)
    __main__              python -m rezero COMMAND
"""
