"""Prints what a message does in each phase of a slot, from the table that the APs run by: `python docs/phases.py`."""

from apnode.agreement import HANDLERS
from apnode.slot import Phase


def table() -> str:
    """A Markdown table: a row for each kind of message, a column for each phase in which a slot is open."""
    phases = [phase for phase in Phase if phase is not Phase.WAITING]
    rows = [["message", *(phase.name for phase in phases)], ["---"] * (1 + len(phases))]
    for kind in dict.fromkeys(kind for _, kind in HANDLERS):
        handlers = [HANDLERS.get((phase, kind)) for phase in phases]
        rows.append([f"`{kind.__name__}`", *(h.__name__.strip("_").replace("_", " ") if h else "" for h in handlers)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def meanings() -> str:
    """A Markdown list: what each phase means."""
    return "\n".join(f"- `{phase.name}`: {phase.value}." for phase in Phase)


if __name__ == "__main__":
    print(f"{meanings()}\n\n{table()}")
