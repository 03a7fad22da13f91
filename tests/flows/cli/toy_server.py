"""A server that starts quickly, as a process of `flows.cli.server_process.Server`; `TOY` says how it behaves."""

import os
import signal
import sys
import time

from tasks.runtime.parent import end_with_parent


def main() -> None:
    """Serve an empty application, or misbehave."""
    behaviour = os.environ["TOY"]
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()
    if behaviour == "failing":
        sys.exit("gloveflow: toy.db: cannot be migrated")
    if behaviour in ("silent", "stubborn"):
        print("ready", flush=True)
        time.sleep(600)
    from starlette.applications import Starlette

    from flows.cli.guard import OwnAddresses, login_page, run_server

    run_server(lambda port, secret: OwnAddresses(Starlette(), port=port, secret=secret, login=login_page()))


if __name__ == "__main__":
    main()
