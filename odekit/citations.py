"""BibTeX of the publication that a method's or a table's numbers come from, read off its one-line `source`."""

import re
from typing import Any

_ARTICLE = re.compile(r"(?P<journal>.+?) (?P<volume>\d+) \((?P<year>\d{4})\)(?:, (?P<rest>.+))?")
_ARXIV = re.compile(r"arXiv:? ?(\d{4}\.\d{4,5})")


def cite(what: Any) -> str:
    """Return BibTeX for what ran: one entry for each publication that the numbers come from.

    Args:
        what: a solution, a method, a sampler table: anything with a `source`.

    Returns:
        The entries, keyed by first author and year; for numbers of your own a comment that says so.

    Raises:
        TypeError: `what` has no `source`.

    Example:
        >>> import odekit as ok
        >>> print(cite(ok.Tsit5()).splitlines()[0])
        @article{tsitouras2011,

    Source: Patashnik, BibTeXing, 1988, section 3.
    """
    source, name = getattr(what, "source", None), getattr(what, "method", None) or getattr(what, "name", "")
    if not isinstance(source, str):
        raise TypeError(f"`what` was {type(what).__name__}; give a solution, a method or a table.")
    if source in ("", "user"):
        return f"% {name}: coefficients of your own, nothing to cite"
    return "\n\n".join(_entry(part, name) for part in source.split("; "))


def _entry(source: str, name: str) -> str:
    authors, rest = _authors(source)
    arxiv, year = _ARXIV.search(rest), re.search(r"\b(1[5-9]|20)\d\d\b", rest)
    article = _ARTICLE.match(rest)
    plain = _ARXIV.sub("", rest).replace("()", "").strip(" ,")
    fields = {"author": " and ".join(authors)}
    if article:
        fields |= {"journal": article["journal"], "volume": article["volume"], "year": article["year"]}
        fields |= _pages(article["rest"] or "")
    else:
        when = year[0] if year else f"20{arxiv[1][:2]}" if arxiv else ""
        fields |= {"howpublished": plain or f"arXiv {arxiv[1] if arxiv else ''}", "year": when}
    if arxiv:
        fields |= {"eprint": arxiv[1], "archiveprefix": "arXiv"}
    fields["note"] = name
    key = re.sub(r"\W", "", authors[0].split()[-1]).lower() + fields["year"]
    lines = [f"  {field} = {{{value}}}," for field, value in fields.items() if value]
    return "\n".join([f"@{'article' if article else 'misc'}{{{key},", *lines, "}"])


def _authors(source: str) -> tuple[list[str], str]:
    """Split "A, B & C, rest", "A et al., rest" and "A, rest"; without a "&" the first name is the author."""
    several = re.match(r"((?:[^,&]+, )*[^,&]+ & [^,]+), (.+)", source)
    if several:
        return re.split(r", | & ", several[1]), several[2]
    first, _, rest = source.partition(", ")
    if first.endswith(" et al."):
        return [first.removesuffix(" et al."), "others"], rest
    return [first], rest


def _pages(rest: str) -> dict[str, str]:
    pages = re.match(r"(\d+)-(\d+)", rest)
    return {"pages": f"{pages[1]}--{pages[2]}"} if pages else {}
