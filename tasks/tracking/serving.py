"""A registered version behind HTTP: loaded and tried, and replaced when its alias moves."""

import logging
import math
import threading
import time

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline_config.errors import GloveflowError, UnusableModelError
from tasks.tracking.loaded import describe_failure
from tasks.tracking.loading import load_checked
from tasks.tracking.model_files import version_uri
from tasks.tracking.models import find_alias
from tasks.tracking.scoring_app import ScoringApp, Served, StrictModel

logger = logging.getLogger(__name__)
RETRY_SECONDS = 60.0  # after which a version that could not be used is looked at again
TRIED = ("a short text", "")


def open_served(version: ModelVersion) -> Served:
    """Check the files of a registered version, load it, and let it answer two texts.

    Raises:
        UnusableModelError: its files differ from their digests, or it cannot be loaded, or its answers are none.
    """
    uri = version_uri(version)
    model, described, packages = load_checked(version)
    try:
        answers = model.predict(list(TRIED))
        usable = [answer["label"] in described.labels and math.isfinite(answer["score"]) for answer in answers]
    except Exception as error:  # whatever the model's code raises
        raise UnusableModelError(describe_failure(uri, "cannot classify texts", error, packages)) from error
    if usable != [True] * len(TRIED):
        raise UnusableModelError(f"{uri}: answers two texts without a label and a probability of each")
    return Served(uri, StrictModel(model))


class AliasWatch:
    """Replaces the model of an application when the alias names another version that can be used.

    A version that cannot be used is told once, and looked at again after `RETRY_SECONDS`; the one before goes on.

    Args:
        app: the application.
        name: name of the registered model.
        alias: alias of the version.
        seconds: how long it waits between two looks.
    """

    def __init__(self, app: ScoringApp, name: str, alias: str, seconds: float) -> None:
        self._app, self._name, self._alias, self._seconds = app, name, alias, seconds
        self._told = ""
        self._refused, self._again = "", 0.0  # the version that could not be used, and when to look at it again

    def start(self) -> None:
        """Look again and again, in a thread that ends with the process."""
        threading.Thread(target=self._run, name="alias-watch", daemon=True).start()

    def look(self) -> None:
        """Look once."""
        before = self._app.served.uri
        try:
            version = find_alias(self._name, self._alias)
            if version is None:
                self._tell(f"models:/{self._name}@{self._alias}: no version has this alias any more; {before} goes on")
                return
            uri = version_uri(version)
            if uri == before:
                self._told = self._refused = ""
                return
            if uri == self._refused and time.monotonic() < self._again:
                return
            self._refused, self._again = uri, time.monotonic() + RETRY_SECONDS
            self._app.served = open_served(version)
        except (GloveflowError, MlflowException, OSError) as error:
            self._tell(f"{error}; {before} goes on")
            return
        self._told = self._refused = ""
        logger.info("%s answers from now on, instead of %s", uri, before)

    def _run(self) -> None:
        while True:
            time.sleep(self._seconds)
            try:
                self.look()
            except Exception as error:  # the thread goes on, whatever MLflow raises
                self._tell(f"models:/{self._name}@{self._alias}: {type(error).__name__}: {error}")

    def _tell(self, message: str) -> None:
        if message != self._told:
            logger.error("%s", message)
        self._told = message
