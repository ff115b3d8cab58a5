"""Text progress on the host: called between compiled chunks, never from inside them."""

import sys
import time
from typing import TextIO


class Bar:
    """A one-line text bar, for every `progress=` argument of the package.

    On a terminal the line is redrawn in place; elsewhere one line is printed when the work is done.

    Args:
        label: what is being done.
        stream: where to write; standard error when None.
        width: characters of the bar.

    Example:
        >>> import sys
        >>> Bar("train", stream=sys.stdout, width=4)(10, 10, "loss 0.5")  # doctest: +ELLIPSIS
        train  ████ 100 %  loss 0.5 ...
    """

    def __init__(self, label: str, stream: TextIO | None = None, width: int = 24):
        self.label, self.width = label, width
        self.stream = sys.stderr if stream is None else stream
        self.begun = time.monotonic()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` is done."""
        terminal = self.stream.isatty()
        if done < total and not terminal:
            return
        filled = self.width * done // total
        bar = "█" * filled + "░" * (self.width - filled)
        seconds = f"{time.monotonic() - self.begun:.1f} s"
        line = f"{self.label}  {bar} {100 * done // total:3d} %  {note}  {seconds}"
        # \x1b[K clears what a longer line has left behind.
        self.stream.write(f"\r{line}\x1b[K" if terminal else line)
        self.stream.write("\n" if done >= total else "")
        self.stream.flush()
