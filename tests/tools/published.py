"""Compare a run on the original's questions with the published result: `python tests/tools/published.py RUN_ID`."""

import argparse

from rezero.evaluation.evaluate import summarize
from rezero.evaluation.stats import wilson
from rezero.evaluation.traces import read_traces
from rezero.files import resolve
from rezero.runner.run import safe_name

# arXiv 2504.11001, the best of 11 evaluations on test; 24 of the 32 questions share their passage with training, and
# the trained model graded its own transcripts.
RIGHT, ASKED = 15, 32


def compare_with_published(run_id: str, runs: str = "papermill_runs") -> str:
    """One line: what the trained policy of a run got exactly right on test, beside the published share."""
    rows = read_traces(resolve(runs) / safe_name(run_id, "run") / "traces.jsonl")
    trained = [episode for labels, episode in rows if labels["policy"].startswith("after training")]
    after = summarize(trained, "after training")
    low, high = wilson(RIGHT, ASKED)
    theirs = f"{RIGHT / ASKED:.4f} [{low:.3f}, {high:.3f}] of {ASKED}, graded by the model itself"
    verdict = "above" if after["accuracy"].value > RIGHT / ASKED else "not above"
    ours = f"exact match on {after['accuracy'].n} test questions {after['accuracy']}, F1 {after['f1']}"
    return f"{ours}; published: {theirs}. The share is {verdict} the published one."


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=compare_with_published.__doc__)
    parser.add_argument("run_id")
    try:
        print(compare_with_published(parser.parse_args().run_id))
    except (OSError, ValueError) as error:
        parser.error(str(error))
