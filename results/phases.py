"""Prints what a message does in each phase of a slot, from the table that the APs run by.

python -m results.phases
"""

from apnode.agreement import HANDLERS
from apnode.slot import Phase


def main() -> None:
    """Print what each phase means; then a row for each kind of message, a column for each phase of an open slot."""
    for phase in Phase:
        print(f"{phase.name:13}{phase.value}")
    phases = [phase for phase in Phase if phase is not Phase.WAITING]
    print(f"\n{'message':15}" + "".join(f"{phase.name:17}" for phase in phases).rstrip())
    for kind in dict.fromkeys(kind for _, kind in HANDLERS):
        handlers = [HANDLERS.get((phase, kind)) for phase in phases]
        does = "".join(f"{h.__name__.strip('_').replace('_', ' ') if h else '':17}" for h in handlers)
        print(f"{kind.__name__:15}{does}".rstrip())


if __name__ == "__main__":
    main()
