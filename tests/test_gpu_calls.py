"""The arguments that rezero/ passes to Unsloth, vLLM and TRL exist there, at the pinned versions.

Packages that are not installed are read from their wheels, which `-m slow` downloads once (350 MB, to .cache/wheels).
"""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from rezero.config import read_profile
from rezero.files import ROOT
from rezero.policy.load import precision

VLLM_UTILS = ("unsloth_zoo", "unsloth_zoo/vllm_utils.py")
CALLS = {  # the last two parts of what is called -> (package, file, class or function, method)
    "FastLanguageModel.from_pretrained": ("unsloth", "unsloth/models/loader.py", "FastLanguageModel.from_pretrained"),
    "FastLanguageModel.get_peft_model": ("unsloth", "unsloth/models/llama.py", "FastLlamaModel.get_peft_model"),
    "SamplingParams": ("vllm", "vllm/sampling_params.py", "SamplingParams"),
    "engine.generate": ("vllm", "vllm/entrypoints/llm.py", "LLM.generate"),
    "model.load_lora": (*VLLM_UTILS, "load_lora"),
    "model.save_lora": ("peft", "peft/peft_model.py", "PeftModel.save_pretrained"),  # where Unsloth passes them on
}
TRL = ("GRPOConfig", "SFTConfig")  # TRL is installed everywhere; its trainers run in other tests
TEXTS = [  # (package, file, text): what else rezero/extras/unsloth.py relies on
    (*VLLM_UTILS, '"UNSLOTH_VLLM_NO_FLASHINFER"'),
    (*VLLM_UTILS, '"vllm_bnb_plugin.bitsandbytes"'),  # vLLM itself has no 4-bit weights since 0.28
    # The message at every save that `load_unsloth` filters out, and the logger that it goes to
    ("unsloth", "unsloth/save.py", "from transformers.models.llama.modeling_llama import logger"),
    ("unsloth", "unsloth/save.py", "Restored added_tokens_decoder"),
    ("unsloth", "unsloth/_gpu_init.py", "should be imported before"),  # hence `import_unsloth`
    ("unsloth_zoo", "unsloth_zoo/compiler.py", '"UNSLOTH_COMPILE_LOCATION"'),
    ("unsloth", "unsloth/models/_utils.py", "model.vllm_engine = "),
    ("unsloth", "unsloth/models/_utils.py", "model.load_lora = functools.partial(load_lora, model)"),
    ("unsloth", "unsloth/models/_utils.py", "model.save_lora = functools.partial(save_lora, model)"),
]


def calls_in(source: str) -> list[tuple[str, list[str]]]:
    """(the last two parts of what is called, names of the keyword arguments) of every call."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [(".".join(ast.unparse(call.func).split(".")[-2:]), keywords(call)) for call in calls]


def keywords(call: ast.Call) -> list[str]:
    """The names of a call's keyword arguments, also of those that stand in `**dict(name=value)`."""
    words = [word for word in call.keywords if word.arg]
    grouped = [word.value for word in call.keywords if not word.arg and ast.unparse(word.value).startswith("dict(")]
    return [word.arg for word in words] + [name for group in grouped for name in keywords(group)]


@cache
def our_calls() -> list[tuple[str, list[str]]]:
    return [call for path in sorted((ROOT / "rezero").rglob("*.py")) for call in calls_in(path.read_text("utf-8"))]


def arguments(source: str, name: str) -> set[str]:
    """The named arguments of a function or "Class.method", or the fields of a class without an __init__ of its own."""
    node = ast.parse(source)
    for part in name.split("."):  # of definitions of one name the last counts: those before it are overloads
        node = [n for n in ast.walk(node) if getattr(n, "name", None) == part][-1]
    if isinstance(node, ast.ClassDef):
        return {n.target.id for n in node.body if isinstance(n, ast.AnnAssign)}
    return {argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}


def test_a_wrong_argument_is_found():
    source = "class A:\n  n: int = 1\n  def f(self): ...\n  def f(self, a, *, b=1, **more): ...\ndef g(c): ..."
    assert [arguments(source, name) for name in ("A", "A.f", "g")] == [{"n"}, {"self", "a", "b"}, {"c"}]
    assert calls_in("self.x.f(1, b=2, **c)\ng(**dict(d=1))")[:2] == [("x.f", ["b"]), ("g", ["d"])]


def test_the_table_names_all_that_is_imported_and_nothing_else():
    found = {name for name, _ in our_calls()}
    assert found >= {*CALLS, *TRL}
    imports = re.compile(r"^ +from (?:unsloth|vllm|trl)\S* import (.+)$", re.MULTILINE)
    names = [name for path in (ROOT / "rezero").rglob("*.py") for name in imports.findall(path.read_text("utf-8"))]
    known = {name.split(".")[0] for name in (*CALLS, *TRL)}
    tested = {"GRPOTrainer", "SFTTrainer", "selective_log_softmax_and_entropy"}  # each runs in another test
    assert {*", ".join(names).split(", ")} - known == tested


def test_trl_knows_what_it_is_told():
    import trl

    for name, keywords in our_calls():
        if name in TRL:
            assert {*keywords, *precision(lora=True)} <= {*getattr(trl, name).__dataclass_fields__}
    for profile in (ROOT / "rezero" / "profiles").glob("*.yaml"):
        assert {*read_profile(profile.stem)["grpo"]} <= {*trl.GRPOConfig.__dataclass_fields__}, profile.stem


def source_of(package: str, file: str) -> str:
    """A file of an installed package, or of its pinned wheel."""
    try:
        return Path(distribution(package).locate_file(file)).read_text("utf-8")
    except PackageNotFoundError:
        return zipfile.ZipFile(wheel(package)).read(file).decode()


@cache
def wheel(package: str) -> Path:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (pin,) = [pin for pin in project["optional-dependencies"]["gpu"] if pin.startswith(f"{package}==")]
    folder, name = ROOT / ".cache" / "wheels", pin.replace("==", "-")
    if not list(folder.glob(f"{name}-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
        if subprocess.run([*command, pin], capture_output=True).returncode:
            pytest.skip(f"{pin} cannot be downloaded from here")
    return next(folder.glob(f"{name}-*.whl"))


@pytest.mark.slow
@pytest.mark.parametrize("called", CALLS)
def test_our_arguments_exist_in_the_pinned_versions(called):
    package, file, name = CALLS[called]
    allowed = arguments(source_of(package, file), name)
    for keywords in [keywords for call, keywords in our_calls() if call == called]:
        assert not {*keywords} - allowed


@pytest.mark.slow
@pytest.mark.parametrize(("package", "file", "text"), TEXTS)
def test_what_else_we_rely_on_is_there(package, file, text):
    assert text in source_of(package, file)


HARMLESS = {
    "output_dir",
    "per_device_eval_batch_size",
    "eval_accumulation_steps",
    "logging_nan_inf_filter",
    "torch_empty_cache_steps",
    "include_num_input_tokens_seen",
    "generation_kwargs",
    "auto_find_batch_size",
    "dataloader_pin_memory",
    "vllm_mode",
}  # fmt: skip  (vllm_mode: use_vllm is False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "also"),  # also: what the profiles pass, and what is replaced for GRPO alone
    [("GRPOConfig", {*read_profile("laptop")["grpo"]}), ("SFTConfig", {"router_aux_loss_coef"})],
)
def test_no_default_that_unsloth_changes_reaches_a_training(config, also):
    """Unsloth writes its own defaults, `replacements`, into TRL's configurations, so those fields are always passed."""
    import trl

    changed = set()
    for node in ast.walk(ast.parse(source_of("unsloth", "unsloth/models/rl.py"))):
        target = ast.unparse(node.targets[0]) if isinstance(node, ast.Assign) else ""
        if target == "replacements" and isinstance(node.value, ast.Dict):
            changed |= {key.value for key in node.value.keys}
        elif target.startswith("replacements["):
            changed.add(node.targets[0].slice.value)
    assert {"learning_rate", "warmup_steps", "mask_truncated_completions"} <= changed
    passed = {word for name, keywords in our_calls() if name == config for word in keywords}
    fields = {*getattr(trl, config).__dataclass_fields__}
    assert not (changed & fields) - passed - also - {*precision(lora=True)} - HARMLESS
