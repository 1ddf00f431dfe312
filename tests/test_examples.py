"""The examples of the READMEs are executed, as far as they need no other packages, models or hours."""

import re
import shlex
import sys

import pytest

from rezero.__main__ import main, make_parser
from rezero.config import load_config
from rezero.files import ROOT
from rezero.judge import exact_match
from rezero.protocol import parse_turn
from rezero.task import load_task

PATHS = [ROOT / "README.md", *ROOT.glob("[!.]*/README.md")]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text().replace("\\\n", " ") for path in PATHS}
COMMAND = re.compile(r"""^python -m rezero ((?:'[^']*'|"[^"]*"|[^#\n'"])+)""", re.MULTILINE)  # quotes may span lines
BLOCKS = [(name, block) for name in TEXTS for block in re.findall(r"^```\n(.*?)```", TEXTS[name], re.DOTALL | re.M)]
COMMANDS = [(name, command.strip()) for name, block in BLOCKS for command in COMMAND.findall(block)]
INLINE = re.findall(r"`python -m rezero ([^`]+)`", " ".join(TEXTS.values()))


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_a_command_of_a_readme_is_understood(name, command):
    make_parser().parse_args(shlex.split(command))  # exits where it is not


@pytest.fixture(scope="module")
def task():
    return load_task(load_config("laptop"))


def test_the_episode_of_the_readme_is_one_of_the_shipped_corpus(task):
    """Its first query misses and its second finds the passage, with the engine and k of the laptop's profile."""
    (block,) = re.findall(r"```\n(Who .*?)```", TEXTS["README.md"], re.DOTALL)
    text, *lines = block.splitlines()
    (question,) = [one for one in [*task.questions["dev"], *task.sealed] if one.text == text]
    first, _, second, read, last = lines
    found = [task.engine.search([parse_turn(line).argument], task.sampling.k)[0] for line in (first, second)]
    assert [any(hit.chunk_id in question.gold_chunk_ids for hit in hits) for hits in found] == [False, True]
    quoted = re.search(r"… (.+) …", read)[1]
    assert any(quoted in hit.text for hit in found[1])
    assert exact_match(parse_turn(last).argument, question.answers)


def test_what_the_readmes_ask_is_answered(capsys):
    commands = [*(command for _, command in COMMANDS), *INLINE]
    asked = {re.search(r'ask "([^"]+)"', command)[1] for command in commands if command.startswith('ask "')}
    assert asked
    for question in asked:  # by the starting policy: a run's folder is not there
        assert main(["ask", question]) == 0
        assert re.search(r"^answer +(?!unknown|none)\w", capsys.readouterr().out, re.MULTILINE), question


def test_the_reward_of_the_readme_is_weighed_by_the_lab(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", TEXTS["README.md"], re.DOTALL)
    (tmp_path / "my_rewards.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    (command,) = [command for command in INLINE if command.startswith("reward-lab --weights")]
    assert main([*shlex.split(command), "--questions", "12", "--out", str(tmp_path)]) == 0
    assert "my_rewards:brevity" in capsys.readouterr().out and sys.modules["my_rewards"].brevity
