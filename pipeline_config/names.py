"""The rules of names, and names proposed from other texts and from where a corpus is."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from pipeline_config.errors import ConfigError

_PACKED = r"\.(gz|bz2|zst|xz|zip)$"
_SUFFIX = r"(?<=.)\.[a-z][a-z0-9]*$"
_MAGIC = re.compile(r"[*?\[]|\$\{")


def propose_name(text: str) -> str:
    """Return a text as a name of lowercase letters, digits and -, without accents; empty if nothing of it is left."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:200].rstrip("-")


def name_corpus(source: str | Sequence[str]) -> str:
    """Return a name for a corpus: that of its first file without suffixes, or of the folder if there is a pattern.

    Args:
        source: path, pattern, URL or `package:<distribution>:<path>`, or a list of them.

    Returns:
        The name; empty if there is none that is valid.
    """
    first = source if isinstance(source, str) else next(iter(source), "")
    path = urlsplit(first).path if "://" in first else first.removeprefix("package:").rpartition(":")[2]
    parts = [part for part in re.split(r"[/\\]", path) if part.strip(".") and not _MAGIC.search(part)]
    last = parts[-1].lower() if parts else ""
    return propose_name(re.sub(_SUFFIX, "", re.sub(_PACKED, "", last)))


def require_names(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Return one or several names; a ValueError says that one is empty."""
    if not value or not all(value):
        raise ValueError("should have at least 1 character, or 1 name in a list")
    return value


def require_alias(value: str) -> str:
    """Return an alias; a ValueError says the rule that it breaks."""
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,254}", value):
        raise ValueError(
            "should begin with a lowercase letter and hold only lowercase letters, digits, _ and -, at most 255 of them"
        )
    if value == "latest" or re.fullmatch(r"v[0-9]+", value):
        raise ValueError("should not be latest or v with a number, which MLflow keeps for versions")
    return value


def require_model_name(value: str) -> str:
    """Return the name of a registered model; a ValueError says the rule that it breaks."""
    if not re.fullmatch(r"[^\W_]([\w .-]{0,254}\w)?", value):
        raise ValueError(
            "should begin with a letter or digit, end with a letter, digit or _, and hold only letters, digits, "
            "spaces, '.', '_' and '-', at most 256 of them"
        )
    return value


def check_alias(alias: str, where: str) -> str:
    """Return an alias that does not come from a configuration, after the same check.

    Args:
        alias: the alias.
        where: what it was given as, for the message.

    Raises:
        ConfigError: it cannot be an alias.
    """
    return _checked(require_alias, alias, where)


def check_model_name(name: str, where: str) -> str:
    """Do the same for the name of a registered model."""
    return _checked(require_model_name, name, where)


def _checked(check: Callable[[str], str], value: str, where: str) -> str:
    try:
        return check(value)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}, got {value!r}") from error


def require_separator(value: str) -> str:
    """Return what stands between fields: `tab` is a tab; a ValueError says what it may be."""
    value = {"tab": "\t", "\\t": "\t"}.get(value, value)
    if value != "auto" and (len(value) != 1 or not value.isascii() or value in '"\r\n\0'):
        raise ValueError("should be auto, tab, or one ASCII character that is no quote and no line end")
    return value


def require_experiment_name(value: str) -> str:
    """Return the name of an experiment; a ValueError says the rule and proposes a name."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,199}", value):
        proposed = propose_name(value)
        raise ValueError(
            "should begin with a lowercase letter or digit and hold only lowercase letters, digits and -, at most 200 "
            "of them" + (f", such as {proposed}" if proposed else "")
        )
    return value


def require_gate_metric(value: str) -> str:
    """Return the metric of a rule of the gate; a ValueError says what it may be."""
    names = ("accuracy", "macro_f1", "micro_f1", "weighted_f1", "balanced_accuracy", "mcc", "log_loss")
    if value not in names and not re.fullmatch(r"f1\[.+\]", value):
        raise ValueError(f"should be {', '.join(names)}, or f1[CLASS]")
    return value


def require_slice(value: str) -> str:
    """Return the slice of a rule of the gate; a ValueError says what it may be."""
    if not re.fullmatch(r"length(>=|<)[0-9]+|[^=<>]+=.+", value):
        raise ValueError("should be class=NAME, length>=N, length<N, or COLUMN=VALUE")
    return value
