"""Any chat template: those that TRL ships and some of our own, on a tokenizer with their tokens.

`python -m pytest tests/test_templates.py -vv` prints the table: template, end of turn, and how it is read.
"""

import re
from pathlib import Path

import pytest
import trl
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rezero.policy.base import Policy
from rezero.policy.hub import mend
from rezero.protocol import TAGS, build_prompt, format_hits, parse_turn, wrap_information
from rezero.search.base import Hit
from rezero.warmstart.demonstrations import token_runs
from rezero.warmstart.scripted import play, searcher

SHIPPED = Path(trl.__file__).with_name("chat_templates")
TOKEN = re.compile(
    r"<[|｜][^<>'\"{} ]*[|｜]?>|<[a-z_]+\|>|<(?:start|end)_of_[a-z]+>|<end_of_utterance>|\[g?[A-Z_]+\]|<sop>"
)
TURNS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}USER{{ m.content }}{% elif m.role == 'assistant' %}"
    "ASSISTANT{{ m.content }}END{% else %}SYSTEM{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT{% endif %}"
)
REFUSES = "{{ raise_exception('only user and assistant') }}"


def written(user: str, assistant: str, end: str, system: str = "") -> str:
    """A template with these texts before a user's, before and after an assistant's message."""
    marks = dict(USER=user, ASSISTANT=assistant, END=end, SYSTEM=system)
    return re.sub("USER|ASSISTANT|END|SYSTEM", lambda found: marks[found[0]], TURNS)


OWN = {
    "llama 2": written("<s>[INST] ", " [/INST] ", " </s>", REFUSES),
    "mistral": written("[INST] ", "[/INST]", "{{ eos_token }}", "{{ m.content }}\n\n"),
    "vicuna": written(" USER: ", " ASSISTANT: ", "</s>"),
    "granite": written(
        "<|start_of_role|>user<|end_of_role|>",
        "<|start_of_role|>assistant<|end_of_role|>",
        "<|end_of_text|>\n",
        "<|start_of_role|>system<|end_of_role|>{{ m.content }}<|end_of_text|>\n",
    ),
    "no end": written("\n### Instruction:\n", "\n### Response:\n", "\n"),
    "nothing at all": written("", "", ""),
}
PLAIN, FOLDS, THINKS = "as it stands", "system message goes to the user's", "the policy samples <think>"
PICTURES, ENDLESS = "want a text model's", "want a special token there"
IM_END, EOT, GEMMA4 = "<|im_end|>", "<|eot_id|>", "<turn|>"
# template -> the token that ends a turn, and how the template is used; or None, and why it is refused
VERDICTS = {
    "cohere": ("<|END_OF_TURN_TOKEN|>", PLAIN),
    "cohere2": ("<|END_RESPONSE|>", PLAIN),
    "deepseek_r1_distill": ("<｜end▁of▁sentence｜>", THINKS),
    "deepseekv3": ("<｜end▁of▁sentence｜>", THINKS),
    "gemma": ("<end_of_turn>", FOLDS),
    "gemma3": ("<end_of_turn>", PLAIN),
    "glm4moe": ("<|user|>", PLAIN),
    "gptoss": ("<|end|>", "prompt ends with <|channel|>final<|message|>"),
    "idefics3": (None, PICTURES),
    "llava_next": (None, PICTURES),
    "muse_glimmer": ("<|eot|>", "prompt ends with  to=user<|message|>"),
    "phi3": ("<|end|>", PLAIN),
    "phi3_5": ("<|end|>", PLAIN),
    "llama 2": ("</s>", FOLDS),
    "mistral": ("</s>", PLAIN),
    "vicuna": ("</s>", FOLDS),
    "granite": ("<|end_of_text|>", PLAIN),
    "no end": (None, ENDLESS),
    "nothing at all": (None, ENDLESS),
}
VERDICTS |= dict.fromkeys(("llama3", "llama3_1", "llama3_2"), (EOT, PLAIN))
VERDICTS |= dict.fromkeys(("gemma4", "diffusion_gemma"), (GEMMA4, PLAIN))
CHATML = ("lfm2", "lfm2_2_5", "lfm2_2_5_vl", "qwen2_5", "qwen2_5_vl", "qwen3", "qwen3_vl", "qwen3_instruct_2507")
VERDICTS |= dict.fromkeys((*CHATML, "qwen3_5_nothink"), (IM_END, PLAIN))
NEMOTRON = tuple(f"nemotron_3_{name}" for name in ("nano", "super", "ultra", "5_lightning"))
VERDICTS |= dict.fromkeys((*NEMOTRON, "qwen3_5_think", "qwen3_6", "qwen3_8"), (IM_END, THINKS))
# What these write before an answer of the past is not what they write before a new one.
TWO_HEADS = {"glm4moe", "qwen3_5_nothink", "qwen3_8", *NEMOTRON}
ROWS = [
    pytest.param(name, *verdict, id=f"{name}: {verdict[0] or 'refused'}, {verdict[1]}")
    for name, verdict in VERDICTS.items()
]


def tokenizer_for(template: str, special_tags: bool | None) -> PreTrainedTokenizerFast:
    """Bytes, and the tokens that the template names; our tags are none of them (None), or tokens, or special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    names = ["<s>", "</s>", "<unk>", *dict.fromkeys(TOKEN.findall(template))]
    raw.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names if name != "[INST]"])
    if special_tags is not None:
        raw.add_tokens([AddedToken(tag, special=special_tags, normalized=False) for tag in TAGS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = template
    return tokenizer


def text_of(name: str) -> str:
    return OWN[name] if name in OWN else (SHIPPED / f"{name}.jinja").read_text()


def policy_for(policy: Policy, name: str, special_tags: bool | None = None) -> Policy:
    return Policy(policy.model, mend(tokenizer_for(text_of(name), special_tags)))


@pytest.mark.parametrize(("name", "end", "how"), ROWS)
@pytest.mark.parametrize("special_tags", [None, False, True], ids=["tags are text", "tokens", "special tokens"])
def test_an_episode_is_written_and_read(policy, questions, engine, name, end, how, special_tags):
    """Turns are read as they were written, every `<think>` is the policy's, and turns end where they can end."""
    if end is None:
        with pytest.raises(ValueError, match=how):
            policy_for(policy, name, special_tags)
        return
    made = policy_for(policy, name, special_tags)
    assert made.tokenizer.eos_token == end == made.tokenizer.convert_ids_to_tokens(made.end_of_turn)
    assert made.tokenizer.pad_token_id not in (None, made.end_of_turn)
    assert made.ends_turn(made.encode("any" + end)) and made.ends_turn(made.encode("<search>a</search>"))
    assert (how == FOLDS) == made.template.folds_system
    for episode in play(searcher(), questions, engine, k=2, prompt_style="full"):
        runs = list(token_runs(made, episode))
        assert [parse_turn(made.decode(ids)).text for ids, turn in runs if turn] == [t.text for t in episode.turns]
        for ids, turn in runs:
            text = made.tokenizer.decode(ids)
            assert turn or not text.rstrip().endswith("<think>")
            assert turn or "prompt ends with" not in how or text.endswith(how.removeprefix("prompt ends with "))
        prompt = made.tokenizer.decode(runs[0][0])
        assert all(message["content"] in prompt for message in episode.prompt)


@pytest.mark.parametrize(("name", "end", "how"), [row for row in ROWS if row.values[1]])
def test_turns_are_laid_out_as_the_template_does(policy, name, end, how):
    """Whether the end of turn was sampled or not; only at the end of a chat a template may write something else."""
    if name in TWO_HEADS:
        pytest.skip("it writes something else before answers of the past")
    made = policy_for(policy, name)
    chat = build_prompt("Who was the commander of Corvane?", "full")
    chat = chat[how == FOLDS :]
    for finish in ([], [made.end_of_turn]):
        said = list(chat)
        ids = made.prompt_ids(said)
        for number in range(3):
            turn = made.encode(f"<search> {number} </search>")
            ids += turn + (finish and made.encode(made.template.between.partition(end)[0] + end))
            ids += made.information_ids("[1] Corvane | it's 1970", turn + finish)
            said += [dict(role="assistant", content=made.decode(turn))]
            said += [dict(role="user", content=wrap_information("[1] Corvane | it's 1970"))]
        assert made.tokenizer.decode(ids) == made.template.prompt(said)
        assert ids == made.encode(made.template.prompt(said))


@pytest.mark.parametrize(("name", "end", "how"), [row for row in ROWS if row.values[1]])
def test_no_text_becomes_a_chat_token(policy, questions, name, end, how):
    """Neither a question nor a passage, nor what a warm start quotes from one, adds a token that is a unit."""
    made = policy_for(policy, name, special_tags=True)
    units = {number for number in made.tokenizer.added_tokens_decoder}
    marks = ["[INST]", "[/INST]", " <|im_start|>", "＜|im_start|＞", *TAGS, *made.template.units.values()]
    hostile = " ".join(mark + mark for mark in marks)

    def count(text: str) -> list[int]:
        asked = made.prompt_ids(build_prompt(text, "short"))
        told = made.information_ids(format_hits([Hit("c1", text, text, 1.0)]), [])
        return [number for number in asked + told if number in units]

    assert count(hostile) == count("harmless")
    assert "[INST]" not in made.template.inert(hostile) or name not in ("llama 2", "mistral")
