"""Errors that a user can act on, each with the exit code that the command line ends with.

A message says what was wrong, what was got, what was expected and where. Anything that is not a
`GloveflowError` is a defect of the project and ends with exit code 1 and a traceback.
"""


class GloveflowError(Exception):
    """Base class of everything the project raises on purpose."""

    exit_code = 1


class ConfigError(GloveflowError):
    """The configuration or the command line is wrong: unknown key, value out of range, unknown preset."""

    exit_code = 2


class InputError(GloveflowError):
    """A corpus or a vector file cannot be used: missing, empty, malformed, or at odds with the configuration."""

    exit_code = 3


class StoreError(GloveflowError):
    """The artifact store cannot be read or written: permissions, disk space, no file locks."""

    exit_code = 4


class ServiceError(GloveflowError):
    """A service that the run needs does not answer: a download server, Prefect, MLflow."""

    exit_code = 5


class GateError(GloveflowError):
    """A result is below a bound that the configuration demands: embedding coverage, a metric of the model."""

    exit_code = 6


class TrainingError(GloveflowError):
    """Training went wrong in a way that no retry mends: a loss or gradient that is not finite."""

    exit_code = 7


EXIT_INTERRUPTED = 130
EXIT_CODES = {
    0: "success",
    1: "unexpected error: a defect, or a library failed",
    **{kind.exit_code: (kind.__doc__ or "").split(":")[0] for kind in GloveflowError.__subclasses__()},
    EXIT_INTERRUPTED: "interrupted by Ctrl-C",
}
