"""Measure how well judges agree with the pairs that are labelled by hand; card.md has the command line."""

import argparse

import pandas as pd

from rezero.evaluation.evaluate import Judge
from rezero.evaluation.stats import wilson
from rezero.extras.model_judge import named_judge, text_judge
from rezero.files import read_jsonl
from rezero.judge import exact_match, f1


def agreement(judges: dict[str, Judge], pairs: list[dict]) -> pd.DataFrame:
    """How often each judge's verdict equals the label, and how it errs: a row per judge and kind of pair, "all" first.

    Columns: n, agreement, its Wilson interval (low, high), and the counts false_right, false_wrong and undecided.
    """
    rows = {}
    for name, judge in judges.items():
        said = judge([(pair["question"], pair["answers"], pair["given"]) for pair in pairs])
        table = pd.DataFrame(pairs).assign(said=said)
        for kind, some in [("all", table), *table.groupby("kind", sort=False)]:
            agreed = int((some.said == some.label).sum())
            low, high = wilson(agreed, len(some))
            rows[name, kind] = {
                "n": len(some),
                "agreement": agreed / len(some),
                "low": low,
                "high": high,
                "false_right": int(((some.said == "right") & (some.label == "wrong")).sum()),
                "false_wrong": int(((some.said == "wrong") & (some.label == "right")).sum()),
                "undecided": int((some.said == "undecided").sum()),
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["judge", "kind"])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m data.judge.agreement", description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", default="data/judge/pairs.jsonl", help="labelled pairs (default: %(default)s)")
    judge_help = "a model's folder or name on the hub, or 'URL MODEL' of an OpenAI-compatible server, whose key is in "
    parser.add_argument("--judge", default="", help=f"{judge_help}JUDGE_API_KEY")
    args = parser.parse_args(argv)
    judges = {"exact match": text_judge(exact_match)}
    for least in (0.5, 0.8):
        judges[f"F1 ≥ {least}"] = text_judge(lambda given, answers, least=least: f1(given, answers) >= least)
    if args.judge:
        judges[args.judge] = named_judge(args.judge)
    print(agreement(judges, list(read_jsonl(args.pairs))).round(3).to_string())


if __name__ == "__main__":
    main()
