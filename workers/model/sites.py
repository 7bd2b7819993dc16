"""Named hook points of a block, at which a run can be read or changed. No torch here.

In a block, from its input to its output::

    block_input
      attention_input → query_output, key_output, value_output (→ query_norm_output, key_norm_output)
      → attention_value_output → attention_output (→ attention_post_norm_output) → attention_added
      mlp_input → mlp_activation → mlp_output (→ mlp_post_norm_output) → mlp_added
    block_output

In a layer of a recurrent model, at each time step::

    cell_input → reset_gate_output, update_gate_output → new_gate_output → cell_output

A place that has no name here is written as a module path: ``transformer.h.3.ln_2`` is what that
module returns, ``transformer.h.3.ln_2:input`` what it is given.
"""

__all__ = [
    "SITES",
    "BoxPart",
    "HeadCount",
    "Side",
    "Site",
    "box_parts",
    "check_site",
    "is_module_path",
    "num_heads",
    "order",
    "split_path",
    "width_of",
    "written_box",
]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from workers.errors import ModelError, nearest
from workers.model.facts import ModelFacts

HeadCount = Literal["query", "key"]
"""Head count of a site: that of the queries, or that of the keys and values."""

Side = Literal["input", "output"]
"""Whether a place is what a module is given or what it returns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One named place in every block."""

    name: str
    about: str
    """Content, in one line for users."""
    heads: HeadCount | None = None
    """None where the site has no heads."""
    stays: bool = True
    """Whether a change at one token reaches, inside the same block, no other token: the site lies past
    the attention's mixing of tokens (or is a query, which only its own token uses). A time step reaches
    all later ones."""


_IN_ORDER = (
    Site(name="block_input", about="the residual stream that enters the block", stays=False),
    Site(name="attention_input", about="what the attention is given, after its norm", stays=False),
    Site(name="query_output", about="the queries, before rotary embedding", heads="query"),
    Site(name="key_output", about="the keys, before rotary embedding", heads="key", stays=False),
    Site(name="value_output", about="the values", heads="key", stays=False),
    Site(
        name="query_norm_output", about="the queries after their norm, before rotary embedding", heads="query"
    ),
    Site(
        name="key_norm_output",
        about="the keys after their norm, before rotary embedding",
        heads="key",
        stays=False,
    ),
    Site(
        name="attention_value_output",
        about="each head's weighted values: the input of the attention's output projection",
        heads="query",
    ),
    Site(name="attention_output", about="what the attention returns"),
    Site(name="attention_post_norm_output", about="the attention's output after its own norm"),
    Site(name="attention_added", about="what the attention adds to the residual stream"),
    Site(name="mlp_input", about="what the MLP is given, after its norm"),
    Site(
        name="mlp_activation",
        about="the hidden neurons, after gating: the input of the MLP's output projection",
    ),
    Site(name="mlp_output", about="what the MLP returns"),
    Site(name="mlp_post_norm_output", about="the MLP's output after its own norm"),
    Site(name="mlp_added", about="what the MLP adds to the residual stream"),
    Site(name="block_output", about="the residual stream that leaves the block"),
    Site(name="cell_input", about="what the cell is given at a time step, beside its state", stays=False),
    Site(name="reset_gate_output", about="how much of the state the candidate sees", stays=False),
    Site(name="update_gate_output", about="how much of the state is kept", stays=False),
    Site(name="new_gate_output", about="the candidate state", stays=False),
    Site(name="cell_output", about="the state after the time step", stays=False),
)

SITES: Mapping[str, Site] = MappingProxyType({site.name: site for site in _IN_ORDER})
"""Every named site, in the order in which a block (or a recurrent cell) computes them."""

_RANK = {name: rank for rank, name in enumerate(SITES)}


def is_module_path(site: str) -> bool:
    """Whether `site` is written as a path to a module (``a.b.c``, ``a.b.c:input``), not as a name."""
    return "." in site or ":" in site


def split_path(path: str) -> tuple[str, Side]:
    """The module and the side that a module path means.

    Raises:
        ModelError: what follows the colon is neither ``input`` nor ``output``.
    """
    module, colon, side = path.partition(":")
    if not colon:
        return module, "output"
    for known in get_args(Side):
        if side == known:
            return module, known
    raise ModelError(f"site {path!r} ends in {side!r}; a module path ends in ':input' or ':output'")


def check_site(name: str) -> None:
    """Accept the name of a site or a well-formed module path.

    Raises:
        ModelError: it is neither.
    """
    if is_module_path(name):
        split_path(name)
    elif name not in SITES:
        raise ModelError(
            f"there is no site {name!r}; sites are {', '.join(SITES)}, or a module path such as "
            f"'model.layers.3.mlp:input'{nearest(name, SITES)}"
        )


def num_heads(site: str, facts: ModelFacts) -> int | None:
    """Number of heads of `site` in the model; None where it has none (module paths never do)."""
    known = SITES.get(site)
    if known is None or known.heads is None:
        return None
    return facts.num_heads if known.heads == "query" else facts.num_kv_heads


def width_of(site: str, facts: ModelFacts, *, of_head: bool = False) -> int | None:
    """Number of dimensions of `site` in the model, or of each of its heads.

    None where only the loaded model tells: of module paths always.
    """
    known = SITES.get(site)
    if known is None:
        return None
    if known.heads is not None:
        heads = 1 if of_head else num_heads(site, facts)
        return None if heads is None or facts.head_width is None else heads * facts.head_width
    return facts.num_neurons if site == "mlp_activation" else facts.width


def order(site: str, layer: int | None) -> tuple[int, int, str]:
    """A key that sorts places by when a run computes them; module paths, whose time is unknown, first."""
    if layer is None:
        return (-1, 0, site)
    return (layer, _RANK[site], site)


BoxPart = int | tuple[int, int | None]
"""An index in one dimension of a tensor, or a half-open range; an end that is None is the dimension's own."""


def written_box(parts: Sequence[BoxPart]) -> str:
    """A rectangle of an example's tensor, one part for each of its first dimensions, in its one spelling."""
    given = list(parts)
    while len(given) > 1 and given[-1] == (0, None):
        given.pop()
    return ", ".join(
        str(p) if isinstance(p, int) else f"{p[0]}:{'' if p[1] is None else p[1]}" for p in given
    )


def box_parts(written: str) -> tuple[BoxPart, ...]:
    """The parts of what `written_box` wrote."""
    ends = (part.partition(":") for part in written.split(", "))
    return tuple((int(lo), int(hi) if hi else None) if colon else int(lo) for lo, colon, hi in ends)
