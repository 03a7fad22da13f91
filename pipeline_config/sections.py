"""The base of all sections of a configuration, the ranges of numbers that several of them use, and the value `auto`."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
AUTO: Any = "auto"  # Any: fields have the type of the chosen value


class ByRule:
    """Marks a field whose value may also be `auto`: a rule chooses it once the corpus is known.

    The type of such a field is that of the chosen value, because `pipeline_config.rules.choose_settings` replaces every
    `auto` before a stage uses it.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            lambda value, validate: value if value == AUTO else validate(value),
            handler(source),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"const": AUTO, "type": "string"}, handler(schema)]}


class Section(BaseModel):
    """Base of all sections: immutable, unknown keys refused.

    `unkeyed` names the fields that cannot change a stage's output, so they stay out of its cache key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    unkeyed: ClassVar[frozenset[str]] = frozenset()

    def keyed(self) -> dict[str, Any]:
        """Return the fields that belong to the cache key, as JSON values.

        Raises:
            ValueError: a rule has to choose a value before a stage can use the section.
        """
        for name, field in type(self).model_fields.items():
            if getattr(self, name) == AUTO and any(isinstance(item, ByRule) for item in field.metadata):
                raise ValueError(f"{name} is {AUTO}, expected the value that its rule chooses (choose_settings)")
        return self.model_dump(mode="json", exclude=set(self.unkeyed))
