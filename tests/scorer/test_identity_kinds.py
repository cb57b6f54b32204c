"""Kinds of code that people write: an edit of each shows, and the same text twice gives the same."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest
import torch.nn.functional as F

from mcscore.run.identity.code import differences
from mcscore.scorer.identity import Identity, fingerprint, identity_of
from mcscore.scorer.model_spec import load_model

HEAD = """
import argparse, array, cmath, dataclasses, enum, functools, importlib, math, operator, os, re, types, weakref
from collections import OrderedDict, defaultdict
from fractions import Fraction
import numpy as np
import torch
from torch import nn
import torch.nn.functional as F
"""


def net(body: str, transform: str = "t") -> str:
    """A model file with a transform."""
    return f"""{HEAD}{body}
def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 3)), {transform}
"""


def model(forward: str, init: str = "pass", before: str = "", within: str = "", base: str = "nn.Module") -> str:
    """A model file with a class."""
    return f"""{HEAD}{before}
class Net({base}):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 3))
        {init}
{textwrap.indent(within, "    ")}
    def forward(self, x):
        {forward}
        return self.net(x)
def build():
    torch.manual_seed(0)
    return Net()
"""


# name: (model file, text, what it is replaced by, other files)
KINDS: list[tuple[str, str, str, str, dict[str, str]]] = [
    ("lru", net("@functools.lru_cache\ndef k(): return 2\ndef t(x): return x*k()\n", "t"), "return 2", "return 3", {}),
    (
        "own decorator",
        net(
            "def by(s):\n  def deco(f):\n    def inner(x): return f(x)*s\n    return inner\n  return deco\n@by(2.0)\ndef t(x): return x\n",
            "t",
        ),
        "by(2.0)",
        "by(3.0)",
        {},
    ),
    ("module const", net("import cfg\ndef t(x): return x*cfg.M\n", "t"), "2.0", "3.0", {"cfg": "M=2.0\nOTHER=5\n"}),
    (
        "package rel",
        net("from pk import f\ndef t(x): return f(x)\n", "t"),
        "2.0",
        "3.0",
        {
            "pk/__init__": "from .sub import f\n",
            "pk/sub": "from . import k\ndef f(x): return x*k.M\n",
            "pk/k": "M=2.0\n",
        },
    ),
    ("late import", net("def t(x):\n  import cfg\n  return x*cfg.M\n", "t"), "2.0", "3.0", {"cfg": "M=2.0\n"}),
    (
        "late from",
        net("def t(x):\n  from cfg import f\n  return f(x)\n", "t"),
        "x*2",
        "x*3",
        {"cfg": "def f(x): return x*2\n"},
    ),
    (
        "importlib",
        net("import importlib\ndef t(x):\n  return importlib.import_module('cfg').f(x)\n", "t"),
        "x*2",
        "x*3",
        {"cfg": "def f(x): return x*2\n"},
    ),
    (
        "dataclass",
        net("@dataclasses.dataclass\nclass C:\n  m: float = 2.0\nCFG=C()\ndef t(x): return x*CFG.m\n", "t"),
        "= 2.0",
        "= 3.0",
        {},
    ),
    ("enum", net("class E(enum.Enum):\n  A=2.0\ndef t(x): return x*E.A.value\n", "t"), "2.0", "3.0", {}),
    (
        "getattr mod",
        net("import cfg\ndef t(x): return getattr(cfg,'f')(x)\n", "t"),
        "x*2",
        "x*3",
        {"cfg": "def f(x): return x*2\n"},
    ),
    ("globals()", net("def f(x): return x*2\ndef t(x): return globals()['f'](x)\n", "t"), "x*2", "x*3", {}),
    ("eval", net("EXPR='x*2'\ndef t(x): return eval(EXPR)\n", "t"), "x*2", "x*3", {}),
    (
        "bound code",
        net("class P:\n  def __init__(s,m): s.m=m\n  def run(s,x): return x*s.m\n", "P(2.0).run"),
        "x*s.m",
        "x+s.m",
        {},
    ),
    (
        "class base",
        net("class B:\n  def go(s,x): return x*2\nclass P(B):\n  def __call__(s,x): return s.go(x)\n", "P()"),
        "x*2",
        "x*3",
        {},
    ),
    (
        "slots",
        net("class P:\n  __slots__=('m',)\n  def __init__(s): s.m=2.0\n  def __call__(s,x): return x*s.m\n", "P()"),
        "2.0",
        "3.0",
        {},
    ),
    ("_private cls const", net("class P:\n  _M=2.0\n  def __call__(s,x): return x*s._M\n", "P()"), "2.0", "3.0", {}),
    ("staticmethod", net("class P:\n  @staticmethod\n  def go(x): return x*2\n", "P.go"), "x*2", "x*3", {}),
    (
        "partial arr",
        net("def f(m,x): return x*torch.tensor(m)\n", "functools.partial(f,np.array([2.0]))"),
        "2.0",
        "3.0",
        {},
    ),
    (
        "module transform attr",
        net(
            "class T(nn.Module):\n  def __init__(s):\n    super().__init__(); s.w=2.0\n  def forward(s,x): return x*s.w\n",
            "T()",
        ),
        "s.w=2.0",
        "s.w=3.0",
        {},
    ),
    (
        "global net",
        net(
            "PRE=nn.Linear(4,4)\nnn.init.constant_(PRE.weight,2.0); nn.init.zeros_(PRE.bias)\ndef t(x): return PRE(x)\n",
            "t",
        ),
        "2.0",
        "3.0",
        {},
    ),
    (
        "jit fn",
        net("import jf\n", "jf.f"),
        "x*2",
        "x*3",
        {"jf": "import torch\n@torch.jit.script\ndef f(x: torch.Tensor): return x*2\n"},
    ),
    (
        "lambda list",
        net(
            "def C(fs):\n  def go(x):\n    for f in fs: x=f(x)\n    return x\n  return go\n",
            "C([lambda x: x*2, lambda x: x+1])",
        ),
        "x*2",
        "x*3",
        {},
    ),
    (
        "lambda swap",
        net(
            "def C(fs):\n  def go(x):\n    for f in fs: x=f(x)\n    return x\n  return go\n",
            "C([lambda x: x*2, lambda x: x+1])",
        ),
        "lambda x: x*2, lambda x: x+1",
        "lambda x: x+1, lambda x: x*2",
        {},
    ),
    ("methodcaller", net("", "operator.methodcaller('mul',2.0)"), "2.0", "3.0", {}),
    ("made value", net("def make(n): return [n]*2\nT=make(3)\ndef t(x): return x*T[0]\n", "t"), "[n]*2", "[n+1]*2", {}),
    ("default mutable", net("def t(x,cfg={'m':2.0}): return x*cfg['m']\n", "t"), "2.0", "3.0", {}),
    ("nested fn", net("def t(x):\n  def inner(y): return y*2\n  return inner(x)\n", "t"), "y*2", "y*3", {}),
    ("comprehension global", net("M=2.0\ndef t(x): return torch.stack([r*M for r in x])\n", "t"), "M=2.0", "M=3.0", {}),
    ("patched torch", net("F.relu=lambda x,inplace=False: x*2\ndef t(x): return F.relu(x)\n", "t"), "x*2", "x*3", {}),
    ("type(self).X", model("x=x*type(self).K", within="K=2.0"), "2.0", "3.0", {}),
    ("property", model("x=x*self.k", within="@property\ndef k(self): return 2.0"), "2.0", "3.0", {}),
    (
        "cached prop",
        model("x=x*self.k", within="@functools.cached_property\ndef k(self): return 2.0"),
        "2.0",
        "3.0",
        {},
    ),
    ("set attr", model("x=x*len(self.s)", init="self.s={1,2}"), "{1,2}", "{1,2,3}", {}),
    ("nested tensor attr", model("x=x*self.s['a'][0]", init="self.s={'a':[torch.tensor(2.0)]}"), "2.0", "3.0", {}),
    ("obj array", model("x=x*self.s[0]", init="self.s=np.array([2.0,None],dtype=object)"), "2.0", "3.0", {}),
    ("fn attr", model("x=self.f(x)", init="self.f=lambda v: v*2"), "v*2", "v*3", {}),
    ("torch fn attr", model("x=self.f(x)", init="self.f=torch.relu"), "torch.relu", "torch.sigmoid", {}),
    ("tensor method attr", model("x=self.f(x)", init="self.f=torch.Tensor.relu"), "Tensor.relu", "Tensor.sigmoid", {}),
    (
        "partial attr",
        model("x=self.f(x)", init="self.f=functools.partial(F.leaky_relu,negative_slope=0.1)"),
        "0.1",
        "0.2",
        {},
    ),
    (
        "hidden modules",
        model("x=self.l[0](x)", init="self.l=[nn.Linear(4,4)]; nn.init.constant_(self.l[0].weight,2.0)"),
        "2.0",
        "3.0",
        {},
    ),
    (
        "getattr method",
        model("x=getattr(self,'_go'+'a')(x)", within="def _goa(self,x): return x*M", before="M=2.0\n"),
        "M=2.0",
        "M=3.0",
        {},
    ),
    ("getattr attr", model("x=x*getattr(self,'k'+'1')", init="self.k1=2.0"), "self.k1=2.0", "self.k1=3.0", {}),
    (
        "child attr",
        model(
            "x=self.c(x)",
            init="self.c=C()",
            before="class C(nn.Module):\n  k=1\n  def forward(s,x): return x*helper(s)\ndef helper(m): return m.k*2\n",
        ),
        "k=1\n",
        "k=2\n",
        {},
    ),
    (
        "helper on model",
        model("x=x*helper(self)", init="self.zz=2.0", before="def helper(m): return m.zz\n"),
        "self.zz=2.0",
        "self.zz=3.0",
        {},
    ),
    (
        "hook",
        model("x=x", init="self.net[0].register_forward_hook(h)", before="def h(m,i,o): return o*2\n"),
        "o*2",
        "o*3",
        {},
    ),
    (
        "bound patched",
        model(
            "x=x",
            init="self.net[0].forward=types.MethodType(f,self.net[0])",
            before="def f(self,x): return F.linear(x,self.weight,self.bias)*2\n",
        ),
        "*2",
        "*3",
        {},
    ),
    (
        "nonpersistent",
        model("x=x*self.b", init="self.register_buffer('b',torch.tensor(2.0),persistent=False)"),
        "2.0",
        "3.0",
        {},
    ),
    (
        "super",
        model("x=self.go(x)", before="class B(nn.Module):\n  def go(s,x): return x*2\n", base="B"),
        "x*2",
        "x*3",
        {},
    ),
    ("init const", model("x=x*self.k", init="self.k=KK*1.0", before="KK=2\n"), "KK=2", "KK=3", {}),
    (
        "dispatch cls",
        model(
            "x=self.op(x)",
            init="self.op=Op()",
            before="class Op:\n  def __call__(s,x): return s.impl(x)\n  def impl(s,x): return x*2\n",
        ),
        "x*2",
        "x*3",
        {},
    ),
    ("torch.compile fn", net("@torch.compile\ndef t(x): return x*2\n", "t"), "x*2", "x*3", {}),
    (
        "np.vectorize",
        net("f=np.vectorize(lambda v: v*2)\ndef t(x): return torch.tensor(f(x.numpy()))\n", "t"),
        "v*2",
        "v*3",
        {},
    ),
    (
        "autograd fn",
        net(
            "class Fn(torch.autograd.Function):\n  @staticmethod\n  def forward(ctx,x): return x*2\ndef t(x): return Fn.apply(x)\n",
            "t",
        ),
        "x*2",
        "x*3",
        {},
    ),
    (
        "singledispatch",
        net(
            "@functools.singledispatch\ndef f(x): return x*2\n@f.register(torch.Tensor)\ndef _(x): return x*5\ndef t(x): return f(x)\n",
            "t",
        ),
        "x*5",
        "x*6",
        {},
    ),
    (
        "weakref/proxy",
        net("class A: pass\na=A(); a.m=2.0\nimport weakref\nW=weakref.ref(a)\ndef t(x): return x*W().m\n", "t"),
        "2.0",
        "3.0",
        {},
    ),
    (
        "regex",
        net("import re\nR=re.compile('a')\ndef t(x): return x*bool(R.match('a'))\n", "t"),
        "compile('a')",
        "compile('b')",
        {},
    ),
    (
        "closure swap globals",
        net(
            "def by(m):\n  def inner(x): return x*m\n  return inner\ng,h=by(2.0),by(3.0)\ndef t(x): return g(x)-h(x)\n",
            "t",
        ),
        "by(2.0),by(3.0)",
        "by(3.0),by(2.0)",
        {},
    ),
    (
        "rebound",
        net("def a(x): return x*2\ndef b(x): return x*3\ng,h=a,b\ndef t(x): return g(x)-h(x)\n", "t"),
        "g,h=a,b",
        "g,h=b,a",
        {},
    ),
    (
        "lib import",
        net("from math import floor as f\ndef t(x): return x*f(2.5)\n", "t"),
        "import floor",
        "import ceil",
        {},
    ),
    ("lib alias", net("import math as m\ndef t(x): return x*m.sin(2.5)\n", "t"), "import math", "import cmath", {}),
    (
        "two users of sub",
        net("import pk.sub\ndef a(x): return x*pk.sub.A\ndef t(x): return a(x)*pk.sub.B\n", "t"),
        "B=2.0",
        "B=3.0",
        {"pk/__init__": "", "pk/sub": "A=1\nB=2.0\n"},
    ),
]


def load(folder: Path, files: dict[str, str]) -> tuple[Identity, str]:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.setattr(F, "relu", F.relu)  # put back, for the kind that patches it
        for name in ("net", "cfg", "pk", "pk.sub", "pk.k", "mx", "jf"):
            patch.delitem(sys.modules, name, raising=False)
        loaded = load_model(f"{folder / 'net.py'}:build")
        found = identity_of(loaded.module, loaded.transform), fingerprint(loaded.module)
        for name in ("net", "cfg", "pk", "pk.sub", "pk.k", "mx", "jf"):
            sys.modules.pop(name, None)
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("text", "old", "new", "others"), [kind[1:] for kind in KINDS], ids=[kind[0] for kind in KINDS]
)
def test_an_edit_of_each_kind_shows(tmp_path: Path, text: str, old: str, new: str, others: dict[str, str]) -> None:
    files = {**{f"{name}.py": other for name, other in others.items()}, "net.py": text}
    edited = next(name for name, content in files.items() if old in content)
    before, print_before = load(tmp_path / "before", files)
    again, print_again = load(tmp_path / "again", files)
    after, print_after = load(tmp_path / "after", {**files, edited: files[edited].replace(old, new, 1)})
    assert (again, print_again) == (before, print_before)
    assert before.unseen == ()
    assert print_after != print_before or differences(dict(before.code), dict(after.code), set())
