"""How the files of a corpus are read: what the configuration says, or what was found in the files.

A registered model carries the reading of its corpus, so that files to score are read in the same way.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

FileFormat = Literal["auto", "csv", "tsv", "json", "jsonl", "parquet", "xlsx", "sql", "folder"]
Quoting = Literal["auto", "standard", "backslash", "none"]


class Reading(BaseModel):
    """How files of texts become rows; the fields are those of the section `corpus` with the same names.

    Attributes:
        format: format of the files; auto goes by the file name extension.
        text_column: the columns with the text, in the order in which they are joined.
        text_joiner: what stands between the texts of two columns.
        label_column: the column with the class; None where files have none, as those to score.
        split_column: the column that holds train, validation or test.
        group_column: rows with the same value in it stay in one split.
        time_column: times, by which the newest documents are held out.
        keep_columns: columns whose values are kept beside the documents.
        separator: what stands between two fields of a row; auto finds it.
        quoting: how quotes are read; auto finds it.
        header: whether the first row names the columns.
        column_names: names of the columns of files without a header; empty numbers them from 1.
        encoding: encoding of text files; auto goes by the byte order mark, and is UTF-8 without one.
        sheet: the sheet of a workbook; None is the first.
        label_map: label in the file -> class name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: FileFormat = "auto"
    text_column: tuple[str, ...] = ("text",)
    text_joiner: str = "\n"
    label_column: str | None = "label"
    split_column: str | None = None
    group_column: str | None = None
    time_column: str | None = None
    keep_columns: tuple[str, ...] = Field((), exclude_if=lambda names: not names)  # as if it were not there
    separator: str = "auto"
    quoting: Quoting = "auto"
    header: bool = True
    column_names: tuple[str, ...] = ()
    encoding: str = "auto"
    sheet: str | None = None
    label_map: dict[str, str] = {}

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns that are used, each once; those of the text come first."""
        others = (self.label_column, self.split_column, self.group_column, self.time_column)
        named = [name for name in others if name is not None]
        return tuple(dict.fromkeys([*self.text_column, *named, *self.keep_columns]))

    def describe(self) -> str:
        """Return in one line how files are read, for a log: what only concerns other formats is left out."""
        parts: list[str] = [self.format]
        if self.format in ("csv", "tsv"):
            separator = {"\t": "tab"}.get(self.separator, repr(self.separator))
            header = "a header" if self.header else f"no header, columns {', '.join(self.column_names)}"
            parts += [f"separator {separator}", f"quoting {self.quoting}", header]
        if self.format not in ("parquet", "xlsx", "sql"):
            parts.append(f"encoding {self.encoding}")
        return ", ".join(parts)
