"""What rezero/ passes to Unsloth, vLLM and TRL exists in their pinned wheels, of which nothing is imported.

Our calls are found by walking rezero/, so that a new one is compared by itself: what is imported from these packages,
classes derived from it, what a function returns of it, objects made of it, and the engine and the methods that Unsloth
hangs on a model. Their signatures are read from the source in the wheels, along their own imports.
"""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from inspect import Parameter, Signature
from pathlib import Path
from typing import NamedTuple

import pytest

from rezero.files import ROOT

PACKAGES = ("unsloth", "unsloth_zoo", "vllm", "trl")
READ = (*PACKAGES, "transformers", "peft")  # the last two hold base classes, and what is passed on to them
OBJECTS = {".vllm_engine": "vllm:LLM"}  # an attribute of Unsloth's model
ATTACHED = {  # functions that Unsloth hangs on its model, their first argument
    "save_lora": "unsloth_zoo.vllm_utils:save_lora",
    "load_lora": "unsloth_zoo.vllm_utils:load_lora",
    "fast_generate": "vllm:LLM.generate",
}
PASSED_ON = {"unsloth_zoo.vllm_utils:save_lora": "peft:PeftModel.save_pretrained"}  # where its **kwargs go
NESTED = {"generation_kwargs": "vllm:SamplingParams"}  # arguments that are keyword arguments of something else


class Call(NamedTuple):
    where: str  # file:line
    target: str  # module:Class, module:Class.method or module:function
    positional: int
    keywords: list[str]
    whole: bool = True  # False: part of the arguments stands elsewhere


# --- our side: calls in rezero/ ---


def calls_in(sources: dict[str, str]) -> list[Call]:
    """The calls of `PACKAGES` in files {name: source}."""
    trees = {file: ast.parse(source) for file, source in sources.items()}
    functions = {f.name: f for tree in trees.values() for f in walk(tree, ast.FunctionDef)}
    made = {}  # function -> the class of theirs that it returns
    for tree in trees.values():
        names = imported(tree)
        for function in walk(tree, ast.FunctionDef):
            for node in walk(function, ast.Return):
                if getattr(node.value, "id", None) in names:
                    made[function.name] = names[node.value.id]
    return [call for file, tree in trees.items() for call in module_calls(file, tree, functions, made)]


def walk(tree, kind):
    return [node for node in nodes(tree) if isinstance(node, kind)]


@cache
def nodes(tree):
    return [*ast.walk(tree)]


def imported(tree) -> dict[str, str]:
    """Names in a module that stand for something of theirs: imports, and classes derived without an own __init__."""
    names = {}
    for node in walk(tree, ast.Import):
        names |= {a.asname or a.name: f"{a.name}:" for a in node.names if a.name.split(".")[0] in PACKAGES}
    for node in walk(tree, ast.ImportFrom):
        if (node.module or "").split(".")[0] in PACKAGES:
            names |= {a.asname or a.name: f"{node.module}:{a.name}" for a in node.names}
    for node in walk(tree, ast.ClassDef):
        bases = [names[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in names]
        if bases and "__init__" not in {getattr(n, "name", None) for n in node.body}:
            names[node.name] = bases[0]
    return names


def module_calls(file, tree, functions, made):
    names = imported(tree) | OBJECTS
    derived = [c for c in walk(tree, ast.ClassDef) if c.name in names]
    supers = {id(call): names[c.name] for c in derived for call in walk(c, ast.Call)}

    def target(node) -> str | None:
        if isinstance(node, ast.Name):
            return names.get(node.id)
        if isinstance(node, ast.Call):  # an object of the class, or the class that a function returns
            if isinstance(node.func, ast.Name) and node.func.id == "super":
                return supers.get(id(node))
            name = getattr(node.func, "id", getattr(node.func, "attr", None))
            return made.get(name) or target(node.func)
        if isinstance(node, ast.Attribute):
            if node.attr in ATTACHED:
                return ATTACHED[node.attr]
            owner = target(node.value)
            if owner and "." not in owner.partition(":")[2]:  # what their objects hold is not known
                return f"{owner}{'' if owner.endswith(':') else '.'}{node.attr}"
            return names.get(f".{node.attr}")
        return None

    for node in walk(tree, ast.Assign):  # objects of theirs by the name or attribute that they are given
        for place, value in pairs(node):
            kind = target(value) if isinstance(value, ast.Call | ast.Attribute) else None
            if kind and "." not in kind.partition(":")[2]:
                names[place.id if isinstance(place, ast.Name) else f".{place.attr}"] = kind

    def keys(node) -> list[str]:
        """The keys of a dict that is written down: a literal, one in a variable, or what a function returns."""
        if isinstance(node, ast.Dict):
            return [key.value for key in node.keys]
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict":
            return [key for keyword in node.keywords for key in named(keyword)]
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in functions:
            return [key for n in walk(functions[node.func.id], ast.Return) for key in keys(n.value)]
        if isinstance(node, ast.Name):
            given = [value for n in walk(tree, ast.Assign) for place, value in pairs(n)
                     if isinstance(place, ast.Name) and place.id == node.id]  # fmt: skip
            if given:
                return [key for value in given for key in keys(value)]
        return [f"**{ast.unparse(node)}"]  # cannot be read, and matches nothing

    def named(keyword) -> list[str]:
        return [keyword.arg] if keyword.arg else keys(keyword.value)

    catchers = {f.args.kwarg.arg for f in walk(tree, ast.FunctionDef) if f.args.kwarg}
    passing, found = {}, []  # passing: function -> (where its ** goes to, its own arguments)
    for call in walk(tree, ast.Call):
        where, to = f"{file}:{call.lineno}", target(call.func)
        for keyword in call.keywords:
            empty = isinstance(keyword.value, ast.Constant)
            if to and keyword.arg in NESTED and not empty:
                found.append(Call(where, NESTED[keyword.arg], 0, keys(keyword.value), whole=False))
        if to:
            caught = [k for k in call.keywords if k.arg is None and getattr(k.value, "id", None) in catchers]
            given = [key for keyword in call.keywords if keyword not in caught for key in named(keyword)]
            found.append(Call(where, to, len(call.args), given, whole=not caught))
            for f in walk(tree, ast.FunctionDef):
                if caught and call in nodes(f) and f.args.kwarg and f.args.kwarg.arg == caught[0].value.id:
                    passing[f.name] = to, {a.arg for a in (*f.args.args, *f.args.kwonlyargs)}
    for call in walk(tree, ast.Call):
        to, own = passing.get(getattr(call.func, "attr", getattr(call.func, "id", None)), (None, ()))
        if to:
            given = [key for keyword in call.keywords for key in named(keyword) if key not in own]
            found.append(Call(f"{file}:{call.lineno}", to, 0, given, whole=False))
    return found


def pairs(node: ast.Assign):
    """(place, value) of an assignment, also of `a, b = x, y`; places are names or attributes."""
    for place in node.targets:
        both = isinstance(place, ast.Tuple) and isinstance(node.value, ast.Tuple)
        for one, value in zip(place.elts, node.value.elts, strict=True) if both else [(place, node.value)]:
            if isinstance(one, ast.Name | ast.Attribute):
                yield one, value


# --- their side: signatures in wheels ---


class Wheels:
    """Packages as {name: path of a wheel}, read as source."""

    def __init__(self, paths: dict[str, Path]):
        self.archives = {name: zipfile.ZipFile(path) for name, path in paths.items()}

    @cache  # noqa: B019  (a handful of wheels, as long as the tests)
    def module(self, name: str):
        """(syntax tree, whether it is a package) of a module, or None."""
        if archive := self.archives.get(name.split(".")[0]):
            for ending, package in (("/__init__.py", True), (".py", False)):
                if (path := name.replace(".", "/") + ending) in archive.namelist():
                    return ast.parse(archive.read(path)), package
        return None

    def find(self, module: str, name: str, seen: frozenset = frozenset()):
        """(module, definition) of what `module` calls `name`, along its imports; None if it cannot be followed."""
        if (read := self.module(module)) is None or (module, name) in seen:
            return None
        body, seen = [*statements(read[0].body)], seen | {(module, name)}
        own = [n for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == name]
        if own:
            return module, own[-1]
        imports = [(n, a) for n in body if isinstance(n, ast.ImportFrom) for a in n.names]
        for node, alias in sorted(imports, key=lambda pair: pair[1].name == "*"):
            if name in (alias.asname or alias.name, "*") or alias.name == "*":
                source = name if alias.name == "*" else alias.name
                if found := self.find(absolute(module, read[1], node), source, seen):
                    return found
        return None

    def bases(self, module: str, node: ast.ClassDef):
        for base in node.bases:
            if found := isinstance(base, ast.Name) and self.find(module, base.id):
                yield found

    def member(self, module: str, node: ast.ClassDef, name: str):
        """(module, definition) of a method: its own, what that wraps, or inherited."""
        own = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == name]
        if not own:
            return next(filter(None, (self.member(*base, name) for base in self.bases(module, node))), None)
        for decorator in own[-1].decorator_list:  # of the last one: those before it are overloads
            if ast.unparse(decorator).startswith("functools.wraps("):
                owner, _, wrapped = ast.unparse(decorator.args[0]).partition(".")
                return self.member(*self.find(module, owner), wrapped)
        return module, own[-1]

    def signature(self, target: str) -> Signature:
        """Raises LookupError when there is no such thing."""
        module, _, path = target.partition(":")
        first, *rest = path.split(".")
        found = self.find(module, first)
        for name in rest:
            found = found and self.member(*found, name)
        if not found:
            raise LookupError(f"{module} has no {path}")
        if isinstance(found[1], ast.ClassDef):
            return Signature(list(self.fields(*found).values()))
        static = "staticmethod" in map(ast.unparse, found[1].decorator_list)
        mine = parameters(found[1], bound=(bool(rest) and not static) or target in ATTACHED.values())
        if target in PASSED_ON:
            onward = self.signature(PASSED_ON[target]).parameters.values()
            mine |= {p.name: p.replace(kind=p.KEYWORD_ONLY, default=None) for p in onward if p.name not in mine}
        return Signature(list(mine.values()))

    def fields(self, module: str, node: ast.ClassDef) -> dict[str, Parameter]:
        """What a class is made with: the arguments of `__init__`, or the fields of a dataclass and its bases."""
        if init := [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]:
            return parameters(init[-1], bound=True)
        known = {}
        for base in self.bases(module, node):
            known |= self.fields(*base)
        for n in node.body:
            if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name) and "ClassVar" not in ast.unparse(n):
                default = Parameter.empty if n.value is None else None
                known[n.target.id] = Parameter(n.target.id, Parameter.KEYWORD_ONLY, default=default)
        return known


def statements(body):
    """The statements of a module, also those under `if` and `try`, but for what Unsloth does on Apple's GPUs."""
    for node in body:
        yield node
        for part in ("body", "orelse", "handlers", "finalbody"):
            apple = isinstance(node, ast.If) and "MLX" in ast.unparse(node.test) and part == "body"
            if isinstance(node, ast.If | ast.Try | ast.ExceptHandler) and not apple:
                yield from statements(getattr(node, part, []))


def absolute(module: str, package: bool, node: ast.ImportFrom) -> str:
    parts = module.split(".")
    above = parts[: len(parts) - node.level + package] if node.level else []
    return ".".join([*above, *([node.module] if node.module else [])])


def parameters(function: ast.FunctionDef, bound: bool) -> dict[str, Parameter]:
    """The named arguments, without `self` when bound; *args and **kwargs name nothing, so they allow nothing here."""
    args = function.args
    before = [(a, Parameter.POSITIONAL_OR_KEYWORD) for a in (*args.posonlyargs, *args.args)]
    defaults = [Parameter.empty] * (len(before) - len(args.defaults)) + [None] * len(args.defaults)
    defaults += [Parameter.empty if default is None else None for default in args.kw_defaults]
    after = [(a, Parameter.KEYWORD_ONLY) for a in args.kwonlyargs]
    made = [Parameter(a.arg, kind, default=d) for (a, kind), d in zip(before + after, defaults, strict=True)]
    return {parameter.name: parameter for parameter in made[bound:]}


# --- the comparison ---


def problems(call: Call, wheels: Wheels) -> list[str]:
    """What is wrong with a call, each with file and line, and with what is allowed."""
    try:
        signature = wheels.signature(call.target)
    except LookupError as error:
        return [f"{call.where}: {error}"]
    allowed = ", ".join(signature.parameters)
    unknown = [name for name in call.keywords if name not in signature.parameters]
    found = [f"{call.where}: {call.target} has no argument {name!r}; allowed: {allowed}" for name in unknown]
    known = {name: None for name in call.keywords if name not in unknown}
    try:
        (signature.bind if call.whole else signature.bind_partial)(*[None] * call.positional, **known)
    except TypeError as error:
        found.append(f"{call.where}: {call.target}: {error}; allowed: {allowed}")
    return found


@cache
def our_calls() -> list[Call]:
    files = sorted((ROOT / "rezero").rglob("*.py"))
    return calls_in({str(path.relative_to(ROOT)): path.read_text() for path in files})


# --- of the checker itself, on packages made up here ---

THEIRS = {
    "vllm/__init__.py": "if typing.TYPE_CHECKING:\n    from vllm.sampling import SamplingParams\n"
    "    from .llm import LLM",
    "vllm/sampling.py": "class SamplingParams(msgspec.Struct):\n    n: int = 1\n    stop: list | None = None\n"
    "    best: ClassVar[int] = 1",
    "vllm/llm.py": "class LLM(Base):\n    @overload\n    def generate(self): ...\n"
    "    def generate(self, prompts, params=None, *, use_tqdm=True): ...",
    "trl/__init__.py": "from .trainer import *",
    "trl/trainer.py": "@dataclass\nclass Base:\n    seed: int = 0\n    out: str\n@dataclass\nclass Config(Base):\n"
    "    beta: float = 0.0\nclass Loop:\n    def _step(self, batch): ...\nclass Trainer(Loop):\n"
    "    def __init__(self, model, args=None, **kwargs): ...",
    "unsloth/__init__.py": "try:\n    from .models import *\nexcept ImportError:\n    pass",
    "unsloth/models/__init__.py": "from .loader import Fast",
    "unsloth/models/loader.py": "from ..llama import Slow\nclass Fast(Slow):\n"
    "    @staticmethod\n    @functools.wraps(Slow.tune)\n    def tune(model, *args, **kwargs): ...",
    "unsloth/llama.py": "class Slow:\n    @staticmethod\n    def load(name, rank=8, **kwargs): ...\n"
    "    @staticmethod\n    def tune(model, r=8): ...",
    "unsloth_zoo/vllm_utils.py": "def save_lora(model, folder, *args, **kwargs): ...\n"
    "def load_lora(model, folder, tensors=False): ...",
    "peft/__init__.py": "from .model import PeftModel",
    "peft/model.py": "class PeftModel:\n    def save_pretrained(self, save_directory, selected=None): ...",
}


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    path = tmp_path_factory.mktemp("wheels") / "all.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, source in THEIRS.items():
            archive.writestr(name, source)
    return Wheels(dict.fromkeys(READ, path))


MADE = "from trl import Trainer, Config\n"
ENGINE = "class G:\n  def __init__(self, model):\n    self.engine, self.n = model.vllm_engine, 1\n"
ASK = ENGINE + (
    "  def ask(self, request, **options):\n    from vllm import SamplingParams as S\n"
    "    self.engine.generate([], S(n=1, **options), use_tqdm=False)\n"
)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("from vllm import SamplingParams\nSamplingParams(n=1, stop=[])", None),
        ("from vllm import SamplingParams\n\nSamplingParams(n=1, stops=[])",
         "x.py:3: vllm:SamplingParams has no argument 'stops'; allowed: n, stop"),
        ("import vllm\nvllm.SamplingParams(best=2)", "x.py:2: vllm:SamplingParams has no argument 'best'"),
        ("from vllm import Sampler\nSampler()", "x.py:2: vllm has no Sampler"),
        ("from vllm import SamplingParams as S\nS(**anything())", "no argument '**anything()'"),
        ("from vllm import SamplingParams as S\no = dict(n=1, top=2)\nS(**o)",
         "x.py:3: vllm:SamplingParams has no argument 'top'"),
        # through a function of ours that passes its keywords on
        (ASK + "    self.ask(1, stop=2)", None),
        (ASK + "    self.ask(1, stip=2)", "x.py:7: vllm:SamplingParams has no argument 'stip'"),
        # the engine that Unsloth hangs on its model
        (ENGINE + "    self.engine.generate([], use_tqdm=False)", None),
        (ENGINE + "    self.engine.generate([], tqdm=False)", "x.py:4: vllm:LLM.generate has no argument 'tqdm'; "
         "allowed: prompts, params, use_tqdm"),
        (ENGINE + "    self.engine.generate([], 1, 2)", "too many positional arguments"),
        (ENGINE + "    self.engine.generate()", "missing a required argument: 'prompts'"),
        (ENGINE + "    self.engine.rest()", "vllm has no LLM.rest"),
        # fields of a dataclass and its base, also from a function that returns a dict
        (MADE + "Config(out='x', beta=.1, seed=1)", None),
        (MADE + "Config(out='x', betta=.1)", "trl:Config has no argument 'betta'; allowed: seed, out, beta"),
        (MADE + "Config(beta=.1)", "missing a required"),
        (MADE + "def more():\n  return dict(seed=1, cpu=True)\nConfig(out='x', **more())",
         "x.py:4: trl:Config has no argument 'cpu'"),
        # a class of ours on top of theirs, made by a function, and what it calls of theirs
        (MADE + "def f():\n  class T(Trainer):\n    pass\n  return T\nf()(model=1, args=2)", None),
        (MADE + "def f():\n  class T(Trainer):\n    pass\n  return T\nf()(model=1, arg=2)",
         "x.py:6: trl:Trainer has no argument 'arg'"),
        (MADE + "class T(Trainer):\n  def _step(self, b):\n    super()._step(b, 1)",
         "x.py:4: trl:Trainer._step: too many"),
        (MADE + "t = Trainer(1)\nt.accelerator.unwrap(1, keep=2)", None),  # an attribute that is set somewhere
        (MADE + "t = Trainer(1)\nt._step(bunch=2)", "x.py:3: trl:Trainer._step has no argument 'bunch'"),
        # through imports, try and an inherited static method
        ("from unsloth import Fast\nFast.load('x', rank=4)", None),
        ("from unsloth import Fast\nFast.load(name='x', runk=4)",
         "x.py:2: unsloth:Fast.load has no argument 'runk'; allowed: name, rank"),
        ("from unsloth import Fast\nFast.tune(1, r=4, s=5)",
         "x.py:2: unsloth:Fast.tune has no argument 's'; allowed: model, r"),
        # functions that Unsloth hangs on its model; the keywords of one go on to peft
        ("m.save_lora('x', selected=[])\nm.load_lora('x')", None),
        ("m.save_lora('x', select=[])", "x.py:1: unsloth_zoo.vllm_utils:save_lora has no argument 'select'"),
        ("m.load_lora('x', tensor=1)", "allowed: folder, tensors"),
        (MADE + "Trainer(1).run(generation_kwargs=dict(n=1))", "trl has no Trainer.run"),
        (MADE + "o = {'n': 1, 'm': 2}\nTrainer(1, args=Config(generation_kwargs=o))",
         "vllm:SamplingParams has no argument 'm'"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_found(made_up, source, said):
    found = [line for call in calls_in({"x.py": source}) for line in problems(call, made_up)]
    if said is None:
        assert not found
    else:
        assert any(said in line for line in found), found


def test_our_calls_are_found():
    found = {call.target for call in our_calls()}
    assert found >= {
        "unsloth:FastLanguageModel.from_pretrained", "unsloth:FastLanguageModel.get_peft_model", "vllm:SamplingParams",
        "vllm:LLM.generate", ATTACHED["save_lora"], ATTACHED["load_lora"], "trl:GRPOConfig", "trl:SFTConfig",
        "trl:GRPOTrainer", "trl:SFTTrainer", "trl:GRPOTrainer._prepare_inputs", "trl:SFTTrainer.train",
    }  # fmt: skip


# --- against the pinned wheels ---


def pins() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *project["optional-dependencies"]["gpu"]]
    found = {name: version for name, _, version in (re.split(r"(==)", item) for item in listed)}
    return {"unsloth_zoo": found["unsloth"], **found}  # unsloth asks for a zoo of at least its own version


@pytest.fixture(scope="module")
def wheels():
    """The wheels of `READ`, in .cache/wheels; they are downloaded once, 362 MB."""
    folder = ROOT / ".cache" / "wheels"
    paths = {}
    for name in READ:
        pin = f"{name}=={pins()[name]}"
        pattern = f"{name}-{pins()[name]}-*.whl"
        if not list(folder.glob(pattern)):
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
            if subprocess.run([*command, "-d", str(folder), pin], capture_output=True).returncode:
                pytest.skip(f"{pin} is not to be had from here")
        (paths[name],) = folder.glob(pattern)
    return Wheels(paths)


@pytest.mark.slow
def test_our_arguments_exist_in_the_pinned_wheels(wheels):
    found = [line for call in our_calls() for line in problems(call, wheels)]
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_one_wrong_letter_is_found_in_the_pinned_wheels(wheels):
    """Every keyword of every call of ours, misspelt: the comparison must notice each."""
    for call in our_calls():
        for i, name in enumerate(call.keywords):
            wrong = call._replace(keywords=[*call.keywords[:i], f"{name}x", *call.keywords[i + 1 :]])
            said = f"{call.where}: {call.target} has no argument '{name}x'"
            assert any(line.startswith(said) for line in problems(wrong, wheels))


def default_of(wheels: Wheels, module: str, node: ast.ClassDef, field: str) -> str | None:
    """The default of a dataclass's field as source, its own or inherited; None if there is no such field."""
    for n in node.body:
        if isinstance(n, ast.AnnAssign) and n.target.id == field:
            given = {k.arg: k.value for k in n.value.keywords} if isinstance(n.value, ast.Call) else {}
            return ast.unparse(given.get("default", n.value))
    return next(filter(None, (default_of(wheels, *base, field) for base in wheels.bases(module, node))), None)


def changed_by_unsloth(wheels: Wheels, trainer: str, config: str) -> dict[str, tuple[str, str]]:
    """{field: (TRL's default, Unsloth's)} of a configuration that Unsloth rewrites, where the two differ."""
    tree, found = wheels.module("unsloth.models.rl")[0], {}
    for function in walk(tree, ast.FunctionDef):
        for node in walk(function, ast.If | ast.Assign):
            assigned = node.body if isinstance(node, ast.If) else [node]
            if isinstance(node, ast.If) and ast.unparse(node.test) != f"trainer_file == '{trainer}'":
                continue
            for one in assigned:
                target = one.targets[0] if isinstance(one, ast.Assign) else None
                if isinstance(target, ast.Name) and target.id == "replacements" and isinstance(one.value, ast.Dict):
                    if isinstance(node, ast.If) or "output_dir" in ast.unparse(one):  # the one for every trainer
                        given = zip(one.value.keys, one.value.values, strict=True)
                        found |= {key.value: ast.unparse(value) for key, value in given}
                elif isinstance(target, ast.Subscript) and ast.unparse(target.value) == "replacements":
                    found[target.slice.value] = ast.unparse(one.value)
    where = wheels.find("trl", config)
    before = {name: default_of(wheels, *where, name) for name in found}
    return {name: (before[name], now) for name, now in found.items() if before[name] not in (None, now)}


def passed_to(target: str) -> set[str]:
    return {name for call in our_calls() if call.target == target for name in call.keywords}


HARMLESS = {  # the trainers evaluate nothing; the others are about logs and memory
    "per_device_eval_batch_size", "eval_accumulation_steps", "logging_nan_inf_filter", "torch_empty_cache_steps",
    "include_num_input_tokens_seen",
}  # fmt: skip


@pytest.mark.slow
def test_no_default_that_unsloth_changes_reaches_grpo(wheels):
    changed = changed_by_unsloth(wheels, "grpo_trainer", "GRPOConfig")
    assert changed["learning_rate"] == ("1e-06", "5e-05") and "mask_truncated_completions" in changed  # found at all
    assert changed["warmup_steps"][1] == "0.1" and len(changed) > 10
    left = changed.keys() - passed_to("trl:GRPOConfig") - HARMLESS - {"generation_kwargs"}  # {} for None
    assert not left, {name: changed[name] for name in left}


@pytest.mark.slow
def test_no_default_that_unsloth_changes_reaches_the_warm_start(wheels):
    changed = changed_by_unsloth(wheels, "sft_trainer", "SFTConfig")
    assert "nll" in changed["loss_type"][1]
    left = changed.keys() - passed_to("trl:SFTConfig") - HARMLESS
    assert left <= {"padding_free"}, {name: changed[name] for name in left}  # None: it decides, and packing is off


@pytest.mark.slow
def test_vllm_gets_4_bit_weights_from_a_pinned_package(wheels):
    inside = wheels.module("vllm.model_executor.layers.quantization.bitsandbytes")
    zoo = wheels.archives["unsloth_zoo"].read("unsloth_zoo/vllm_utils.py").decode()
    assert inside or ("vllm_bnb_plugin.bitsandbytes" in zoo and "vllm-bnb-plugin" in pins())


@pytest.mark.slow
def test_what_we_set_in_the_environment_is_read(wheels):
    source = (ROOT / "rezero" / "gpu.py").read_text()
    names = set(re.findall(r'"(UNSLOTH_\w+)"', source))
    zoo = wheels.archives["unsloth_zoo"]
    read = "".join(zoo.read(f"unsloth_zoo/{name}.py").decode() for name in ("vllm_utils", "compiler"))
    assert len(names) == 2 and all(f'"{name}"' in read for name in names)


@pytest.mark.slow
def test_unsloth_still_hangs_these_functions_on_its_model(wheels):
    _, function = wheels.find("unsloth.models._utils", "patch_peft_fast_inference")
    places = {place.attr for n in walk(function, ast.Assign) for place in n.targets if isinstance(place, ast.Attribute)}
    assert places >= ATTACHED.keys() | {name.lstrip(".") for name in OBJECTS}
