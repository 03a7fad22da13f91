"""Whether the MLflow server is there, asked without mlflow, which takes seconds to import."""

import os

from tasks.runtime.services import require_answer


def require_tracking_server() -> None:
    """Check that the server that `MLFLOW_TRACKING_URI` names answers. Other places need no server.

    Raises:
        ServiceError: it does not answer, within 11 seconds.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith(("http://", "https://")):
        require_answer(
            "MLflow", f"{uri.rstrip('/')}/health", advice="start it, or correct MLFLOW_TRACKING_URI, and run again"
        )
