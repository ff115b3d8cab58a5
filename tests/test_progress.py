"""The text bar: redrawn on a terminal, one line elsewhere."""

import io

from odekit.progress import Bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_file_gets_one_line():
    out = io.StringIO()
    bar = Bar("train", out, width=10)
    for done in range(0, 101, 10):
        bar(done, 100, f"loss {done}")
    assert out.getvalue().startswith("train  ██████████ 100 %  loss 100")
    assert out.getvalue().count("\n") == 1


def test_a_terminal_is_redrawn_in_place():
    out = Terminal()
    bar = Bar("train", out, width=10)
    bar(50, 100)
    bar(100, 100)
    half, whole = out.getvalue().split("\r")[1:]
    assert "█████░░░░░  50 %" in half
    assert "\n" not in half
    assert "100 %" in whole
    assert whole.endswith("\n")
