"""Errors that a user can act on, each with the exit code of the command line.

A message says what is wrong, what was expected and where. Any other exception is a defect, of the project or of a
library, and ends with exit code 1; `--debug` shows its traceback. Secrets of addresses are masked in every message.
"""

from pipeline_config.masking import mask_secrets


class GloveflowError(Exception):
    """Base class of all errors that the project raises on purpose."""

    exit_code = 1

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(mask_secrets(value) if isinstance(value, str) else value for value in arguments))


class ConfigError(GloveflowError):
    """The configuration or the command line is wrong: unknown key, value out of range, unknown preset."""

    exit_code = 2


class InputError(GloveflowError):
    """A corpus or a vector file cannot be used: it is missing, empty, malformed, or contradicts the configuration."""

    exit_code = 3


class StoreError(GloveflowError):
    """The artifact store cannot be read or written: permissions, disk space, no file locks."""

    exit_code = 4


class ServiceError(GloveflowError):
    """A service that the run needs does not answer: a download server, Prefect, MLflow."""

    exit_code = 5


class UnusableModelError(ServiceError):
    """A registered model cannot be used: its files are gone or changed, or do not work with the packages here."""


class GateError(GloveflowError):
    """A result is below a bound of the configuration: embedding coverage, a metric of the model."""

    exit_code = 6


class TrainingError(GloveflowError):
    """Training failed in a way that no retry can help: a loss or gradient is not finite."""

    exit_code = 7


EXIT_INTERRUPTED = 130
EXIT_CODES = {
    0: "success",
    1: "unexpected error: a defect, or a library failed",
    **{kind.exit_code: (kind.__doc__ or "").split(":")[0] for kind in GloveflowError.__subclasses__()},
    EXIT_INTERRUPTED: "interrupted by Ctrl-C",
}
