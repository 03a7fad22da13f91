"""Whether a tokenizer is there, before anything starts. Imports nothing heavy."""

from pipeline_config.errors import ConfigError
from pipeline_config.settings import TokenizationConfig
from tasks.served.tokenizers import require_available


def check_tokenizer(config: TokenizationConfig) -> None:
    """Check that a configured tokenizer may be used on this machine; nothing is imported.

    Raises:
        ConfigError: its package is not installed, or it is a function that `GLOVEFLOW_TOKENIZERS` does not list.
    """
    try:
        require_available(config.tokenizer)
    except ValueError as error:
        raise ConfigError(f"tokenization.tokenizer: {error}") from error
