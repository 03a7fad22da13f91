"""The base of every JSON file that one stage writes and another reads.

A file is written from a model and read back through it, so that a missing, unknown or mistyped field is an error where
it stands, and no stage reaches into a dictionary by string.
"""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class JsonFile(BaseModel):
    """The content of a JSON file of a stage's output."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file_name: ClassVar[str]
