"""MLflow's server as a process: `python -m flows.cli.mlflow_server`. Only who knows the secret can use it."""

import sys

from flows.cli.guard import Application, OwnAddresses, SecretRequired, cookie_name, login_page, run_server
from flows.cli.server_process import REASON
from flows.cli.server_secret import Secret
from pipeline_config.errors import GloveflowError
from tasks.runtime.parent import end_with_parent


def main() -> None:
    """Prepare the database and run the server."""
    end_with_parent()
    try:
        run_server(create_app)
    except GloveflowError as error:
        print(f"{REASON}{error}", file=sys.stderr)  # noqa: T201 (to the server's log)
        sys.exit(error.exit_code)


def create_app(port: int, secret: Secret) -> Application:
    """Return MLflow's server behind our checks.

    Raises:
        GloveflowError: the database cannot be opened.
    """
    from tasks.tracking.application import create_mlflow_app

    guarded = SecretRequired(create_mlflow_app(), port=port, secret=secret, open_paths=("/health",))
    login = login_page(cookies={cookie_name(port): secret.cookie(port)})
    return OwnAddresses(guarded, port=port, secret=secret, login=login)


if __name__ == "__main__":
    main()
