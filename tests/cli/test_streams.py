"""What reaches stdout and stderr, whoever prints and whatever the console can show."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from asq_process import asq, fails
from PIL import Image

CHATTY = """
import atexit, ctypes, os, warnings
from torch import nn
print("said at import")
atexit.register(print, "said at the end")

class Chatty(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        print("said in the constructor")
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, num_classes)

    def forward(self, x):
        print("said in forward")
        os.write(1, b"said to the descriptor\\n")
        ctypes.CDLL(None).puts(b"said in C")
        os.system("echo said by a child")
        warnings.warn("said as a warning")
        return self.fc(self.conv(x).mean((2, 3)))

class Raising(Chatty):
    def forward(self, x):
        if len(x) > 1:
            raise {"exit": SystemExit, "key": KeyError}[os.environ["RAISE"]]("not today")
        return super().forward(x)

class Pair(Chatty):
    def forward(self, x):
        return super().forward(x), x

def of_seven():
    return Chatty(7)

def loses_its_temper(num_classes=10):
    net = Chatty(num_classes)
    net.register_load_state_dict_post_hook(lambda *_: {}["no such key"])
    return net
"""


def _write(folder):
    (folder / "chatty.py").write_text(CHATTY)


def test_what_a_network_prints_goes_to_stderr(tmp_path):
    _write(tmp_path)
    short = ["--max-steps", "1", "--threads", "1", "--set", "data.image_size=8", "--json"]
    for command in (["quantize", "chatty:Chatty", "--out", "r", *short], ["overhead", "chatty:Chatty", "--json"]):
        done = asq(*command, cwd=tmp_path)
        assert json.loads(done.stdout)["schema"] == 1
        for place in ("at import", "in the constructor", "in forward", "to the descriptor", "at the end", "in C"):
            assert f"said {place}" in done.stderr, place
        assert "said by a child" in done.stderr and "said as a warning" in done.stderr


def test_what_a_network_raises_is_told_with_its_place(tmp_path):
    _write(tmp_path)
    evaluate = ["eval", "--weights", "none", "--set", "data.image_size=8", "--threads", "1"]
    fails(4, "KeyError: 'not today', at chatty.py:", *evaluate, "chatty:Raising", cwd=tmp_path, env={"RAISE": "key"})
    fails(4, "SystemExit: not today, at chatty.py:", *evaluate, "chatty:Raising", cwd=tmp_path, env={"RAISE": "exit"})
    fails(4, "for one image `chatty:Pair` returns tuple, not logits", *evaluate, "chatty:Pair", cwd=tmp_path)
    fails(4, "for one image `chatty:of_seven` returns (1, 7), not logits", *evaluate, "chatty:of_seven", cwd=tmp_path)
    assert asq("quantize", "chatty:Chatty", "--max-steps", "1", "--set", "data.image_size=8", "--scheme", "float",
               "--out", "r", cwd=tmp_path).returncode == 0  # fmt: skip
    fails(3, "do not fit the network: KeyError: 'no such key', at chatty.py:",
          "eval", "chatty:loses_its_temper", "--weights", _weights(tmp_path), cwd=tmp_path)  # fmt: skip


def _weights(folder):
    """Return a file of weights for a Chatty of ten classes."""
    import torch
    from torch import nn

    state = {f"conv.{n}": t for n, t in nn.Conv2d(3, 4, 3).state_dict().items()}
    torch.save(state | {f"fc.{n}": t for n, t in nn.Linear(4, 10).state_dict().items()}, folder / "w.pt")
    return folder / "w.pt"


def test_consoles_that_cannot_show_a_name(exported, tmp_path):
    file, _ = exported
    folder = tmp_path / "Käfer"
    folder.mkdir()
    for name in ("ü.png", os.fsdecode(b"caf\xe9.png")):
        with open(folder / name, "wb") as image:
            Image.new("RGB", (16, 16)).save(image, "PNG")
    names = b"".join(os.fsencode(path) + b"\n" for path in sorted(folder.iterdir()))
    for encoding in ("ascii", "cp1252", "utf-8"):
        command = [sys.executable, "-m", "asqcli", "infer", str(file), "-"]
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        table = subprocess.run(command, cwd=tmp_path, env=environment, input=names, capture_output=True)
        assert table.returncode == 0, table.stderr
        text = table.stdout.decode(encoding)
        assert ("│" in text) == (encoding == "utf-8") and "caf\\xe9" in text
        if encoding == "ascii":
            assert len({len(line) for line in text.splitlines()[1:]}) == 1  # the columns know how wide an escape is
        done = subprocess.run([*command, "--json"], cwd=tmp_path, env=environment, input=names, capture_output=True)
        told = json.loads(done.stdout.decode("ascii"))["predictions"]
        assert [p["input"] for p in told] == [n.decode(errors="backslashreplace") for n in names.splitlines()]
        failed = subprocess.run([*command[:-1], "né.png"], cwd=tmp_path, env=environment, capture_output=True)
        assert failed.returncode == 3 and b"error: " in failed.stderr and b"Traceback" not in failed.stderr


def test_closed_streams_and_odd_arguments(exported, tmp_path):
    file, _ = exported
    Image.new("RGB", (16, 16)).save(tmp_path / "[b]:cat:.png")
    program = f"{sys.executable} -m asqcli infer {file} "
    for closed, code in (("<&- '[b]:cat:.png'", 0), ("<&- -", 3), (">&- '[b]:cat:.png'", 0), ("2>&- - <&-", 3)):
        done = subprocess.run(["sh", "-c", program + closed], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    assert "[b]:cat:.png" in asq("infer", file, "[b]:cat:.png", cwd=tmp_path).stdout
    for empty in ([""], ["--data="], ["--data", ""]):
        fails(2, "is empty", "infer", file, *empty, cwd=tmp_path, hint="is a variable of your script not set?")
    fails(3, "File name too long", "infer", file, "x" * 300, cwd=tmp_path, prints=True)
    (tmp_path / "binary.yaml").write_bytes(b"\x89PNG")
    fails(3, "it is not text", "recipe", "show", "binary.yaml", cwd=tmp_path)
    fails(2, "dots, no key has more", "eval", "resnet20", "--set", ".".join("a" * 2000) + "=1", cwd=tmp_path)
    fails(2, "invalid value for '--batch-size'", "eval", "resnet20", "--batch-size", 10**30, cwd=tmp_path)


def test_a_current_folder_that_is_gone(tmp_path):
    code = (
        "import os, runpy, sys\n"
        "os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\n"
        "sys.argv = ['asq', 'overhead', 'resnet20']\n"
        "runpy.run_module('asqcli', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 3 and done.stderr.startswith("error: the current folder is gone"), done.stderr
