"""What the sections of a config have in common: frozen, closed to typos, and kinds of numbers."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0, le=1e12)]
Power = Annotated[float, Field(gt=0, le=1e6)]
Count = Annotated[int, Field(ge=1, le=10**6)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def _whole(mixture: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    total = sum(share for share, _ in mixture)
    if abs(total - 1) > 1e-9:
        raise ValueError(f"the shares [[share, value], ...] must sum to 1, not to {total:g}")
    return mixture


# kinds of something: pairs of a share of all and the value that those have
Mixture = Annotated[
    tuple[Annotated[tuple[Fraction, float], Field(strict=False)], ...],
    Field(min_length=1, max_length=8, strict=False),
    AfterValidator(_whole),
]


class Section(BaseModel):
    """A part of what a person may set."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    def variant(self, **changes: Any) -> Self:
        """The same with other values, checked as a whole; a dict is what changes in a section.

        Raises:
            pydantic.ValidationError: if these values are refused.
        """
        known = self.model_dump()
        changed = {
            name: {**known.get(name, {}), **change} if isinstance(change, dict) else change
            for name, change in changes.items()
        }
        return self.model_validate(known | changed)
