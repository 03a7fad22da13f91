"""A flow for the tests of schedules."""

import time

from prefect import flow


@flow
def wait(seconds: float) -> None:
    """Wait, until the process gets a signal or the time is over."""
    time.sleep(seconds)
