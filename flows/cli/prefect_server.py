"""Prefect's API server as a process: `python -m flows.cli.prefect_server`.

Sets up or migrates the server's SQLite database before the server opens it, because Prefect would do that in place, and
a kill or an error would leave it half done. A database of another kind is migrated by Prefect.
"""

import asyncio
import base64
import json
import sys
from pathlib import Path

from alembic.script import ScriptDirectory
from prefect.server.database import provide_database_interface
from prefect.server.database.alembic_commands import alembic_config
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.dependencies import temporary_database_config
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_API_DATABASE_MIGRATE_ON_START,
    temporary_settings,
)

from flows.cli.guard import Application, OwnAddresses, login_page, run_server
from flows.cli.server_process import REASON
from flows.cli.server_secret import Secret
from pipeline_config.errors import GloveflowError
from tasks.runtime.parent import end_with_parent
from tasks.store.databases import prepare_database
from tasks.store.locks import file_lock

_SQLITE = "sqlite+aiosqlite:///"


def main() -> None:
    """Prepare the database and run the server."""
    end_with_parent()
    try:
        prepared = prepare_prefect_database()
    except GloveflowError as error:
        print(f"{REASON}{error}", file=sys.stderr)  # noqa: T201 (to the server's log)
        sys.exit(error.exit_code)
    settings = {PREFECT_API_DATABASE_MIGRATE_ON_START: False} if prepared else {}
    with temporary_settings(settings):
        run_server(create_app)


def create_app(port: int, secret: Secret) -> Application:
    """Return Prefect's server, which asks for the secret itself, behind our checks."""
    from prefect.server.api.server import create_app as create_prefect_app

    # where Prefect's pages look for the password that they send; each port has its own local storage
    password = json.dumps(base64.b64encode(secret.text.encode()).decode())
    login = login_page(f'localStorage.setItem("prefect-password", {password});')
    return OwnAddresses(create_prefect_app(), port=port, secret=secret, login=login)


def prepare_prefect_database() -> bool:
    """Set up or migrate the database that Prefect's settings name.

    Returns:
        Whether the database is at the installed version. If not, it is no SQLite file, or the settings forbid it.

    Raises:
        StoreError: the database cannot be migrated or written.
        ServiceError: the file is not a database, is damaged or locked.
    """
    address = str(PREFECT_API_DATABASE_CONNECTION_URL.value())
    name = address.removeprefix(_SQLITE)
    if not PREFECT_API_DATABASE_MIGRATE_ON_START.value() or name == address or {":", "?"} & set(name):
        return False
    path = Path(name)
    with file_lock(path.with_name(".database.lock"), waiting_for="another server to set up the Prefect database"):
        prepare_database(path, migrate=_migrate, revision=wanted_revision())
    return True


def wanted_revision() -> str:
    """Return Alembic's revision of a database that the installed Prefect works with."""
    scripts = ScriptDirectory.from_config(alembic_config())
    scripts.version_locations = [str(provide_database_interface().orm.versions_dir)]
    return str(scripts.get_current_head())


def _migrate(path: Path) -> None:
    with temporary_database_config(AioSqliteConfiguration(connection_url=f"{_SQLITE}{path}")):
        asyncio.run(_create_tables())


async def _create_tables() -> None:
    database = provide_database_interface()
    await database.create_db()
    await (await database.engine()).dispose()


if __name__ == "__main__":
    main()
