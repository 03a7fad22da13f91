"""The base of all sections of a configuration, and the ranges of numbers that several of them use."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    """Base of all sections: immutable, unknown keys refused.

    `unkeyed` names the fields that cannot change a stage's output, so they stay out of its cache key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    unkeyed: ClassVar[frozenset[str]] = frozenset()

    def keyed(self) -> dict[str, Any]:
        """Return the fields that belong to the cache key, as JSON values."""
        return self.model_dump(mode="json", exclude=set(self.unkeyed))
