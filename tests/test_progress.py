"""Progress: lines in a file, a bar on a terminal and in a notebook, and no impossible numbers."""

import contextlib
import os
import pty
import re
import sys

import pytest

from cplmix_ray.utils.progress import Display, _NotebookBar, shown_check


def test_only_what_can_be_is_shown(capsys):
    display = Display()
    display.advance(20, {"loss": 1.0})  # before the last step is known
    assert capsys.readouterr().out == ""
    display.begin(10, 30)
    for step in (10, 20, 15, 30, 31):
        display.advance(step, {"loss": 1.0})
    display.end()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["step 20/30", "step 30/30", "step 31/30"]
    assert not any("-" in line for line in lines)
    display.begin(0, 5)
    display.advance(5, {})
    assert capsys.readouterr().out == "step 5/5, 0 s left\n"


def test_lines_that_nothing_reads_any_more_do_not_end_a_training(monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        display = Display(lines_on_stderr=True)
        display.begin(0, 2)
        display.advance(1, {})
        display.advance(2, {})
        print("still there")
    assert capsys.readouterr().out == "still there\n"


def test_nothing_to_do_is_no_error(capsys):
    for first, last in ((0, 0), (7, 7)):
        display = Display()
        display.begin(first, last)
        display.advance(last, {})
        display.end()
    shown_check(wait=0.0)(0, 0)
    assert "left" not in capsys.readouterr().out


class Handle:
    """In place of IPython's handle of an output."""

    def __init__(self):
        self.shown = []

    def display(self, content, raw, display_id):
        self.shown.append(content)
        return self

    def update(self, content, raw):
        self.shown.append(content)


@pytest.fixture
def notebook(monkeypatch):
    handle = Handle()
    shell = type("Shell", (), {"kernel": object()})()
    module = type(sys)("IPython")
    module.get_ipython, module.display = lambda: shell, type(sys)("IPython.display")
    module.display.display = handle.display
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", module.display)
    return handle


def test_a_notebook_has_one_bar(notebook, capsys, monkeypatch):
    monkeypatch.setattr(Display, "BAR_SECONDS", 0.0)
    display = Display()
    display.begin(0, 40)
    assert isinstance(display.bar, _NotebookBar)
    for step in (10, 20, 40):
        display.advance(step, {"<b>": 2.0})
    display.end()
    assert [content["text/plain"].split(",")[0] for content in notebook.shown] == [
        "step 0/40",
        "step 10/40",
        "step 20/40",
        "step 40/40",
    ]
    assert "<progress value='40' max='40'" in notebook.shown[-1]["text/html"]
    assert "<b>" not in notebook.shown[-1]["text/html"]
    assert capsys.readouterr() == ("", "")


def test_ipython_in_a_terminal_is_no_notebook(notebook, monkeypatch):
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: object())
    display = Display()
    display.begin(0, 1)
    assert display.bar is None
    assert notebook.shown == []


def test_what_others_write_to_a_terminal_appears_above_the_bar(monkeypatch):
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with open(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        display = Display()
        display.begin(0, 40)
        display.advance(20, {})
        print("warning: something", file=sys.stderr)
        display.shown_at = 0.0
        display.advance(40, {})
        display.end()
        assert sys.stderr is terminal
    said = b""
    with contextlib.suppress(OSError):  # how Linux tells that all was read
        while part := os.read(ours, 4096):
            said += part
    os.close(ours)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode()).replace("\r", "\n").split("\n")
    assert "warning: something" in [line.rstrip() for line in lines]
    assert re.match(r"step .*40/40 0 s left", [line for line in lines if line.strip()][-1])
