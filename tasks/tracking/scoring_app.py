"""A model behind HTTP, with the paths and formats of MLflow's scoring server. Imports nothing else of the project.

MLflow's own function reads a request, calls the model and writes the answer. Beside it, params that the signature does
not name are refused, no error shows what was sent, and the model can be replaced between two requests. A container
runs this file as it is: `python -I scoring_app.py --model DIRECTORY`.
"""

import argparse
import asyncio
import json
import logging
import os
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import mlflow
import uvicorn
from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from mlflow.pyfunc import scoring_server
from mlflow.types.schema import ParamSpec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

_call_mlflow: Callable[..., Any] = scoring_server.invocations
logger = logging.getLogger(__name__)
VERSION_HEADER = "gloveflow-model"  # of every answer: the version that gave it
MAX_BYTES = "GLOVEFLOW_SERVING_MAX_BYTES"  # environment variable: bytes of a request
STOP_SECONDS = 4  # after SIGTERM, for the requests that are open
_EXPECTED = (
    "expected a JSON object with one of inputs, instances, dataframe_split and dataframe_records, and params if "
    "wanted, or a CSV with a header (text/csv)"
)


class Served(NamedTuple):
    """A loaded model, and the name under which answers give it."""

    uri: str
    model: Any


class ScoringApp(Starlette):
    """Answers `/ping`, `/health`, `/version` and `/invocations` as MLflow's scoring server does.

    Attributes:
        served: the model of the next request; it may be replaced at any time. A request that has begun keeps its own.
    """

    def __init__(self, served: Served) -> None:
        self.served = served
        self._timeout = MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get()  # type: ignore[no-untyped-call]
        self._most = int(os.environ.get(MAX_BYTES) or 100 * 2**20)
        super().__init__(
            routes=[
                Route("/ping", self._say_healthy),
                Route("/health", self._say_healthy),
                Route("/version", self._say_version),
                Route("/invocations", self._invoke, methods=["POST"]),
            ]
        )

    async def _say_healthy(self, _: Request) -> Response:
        return self._respond(self.served, "\n")

    async def _say_version(self, _: Request) -> Response:
        return self._respond(self.served, mlflow.__version__)

    async def _invoke(self, request: Request) -> Response:
        served, kind = self.served, request.headers.get("content-type")
        body = bytearray()
        try:
            async for part in request.stream():
                body += part
                if len(body) > self._most:
                    return self._refuse(served, 413, f"expected at most {self._most:,} bytes ({MAX_BYTES}), got more")
        except ClientDisconnect:
            return Response(status_code=400)
        if kind is None:
            return self._refuse(served, 415, "expected a header content-type: application/json or text/csv, got none")
        call = asyncio.to_thread(invoke, bytes(body), kind, served.model)
        try:
            status, content, mimetype = await asyncio.wait_for(call, self._timeout)
        except TimeoutError:
            return self._refuse(served, 504, f"the answer took longer than {self._timeout} s")
        return self._respond(served, content, status, mimetype)

    def _refuse(self, served: Served, status: int, message: str) -> Response:
        return self._respond(served, json.dumps({"error_code": "BAD_REQUEST", "message": message}), status)

    @staticmethod
    def _respond(served: Served, content: str, status: int = 200, mimetype: str = "application/json") -> Response:
        return Response(content, status, {VERSION_HEADER: served.uri}, mimetype)


class Refusal(MlflowException):
    """A request that the model refuses, or at which it failed.

    MLflow puts the data of the request in front of the message of an exception; `told` stays as it is.
    """

    def __init__(self, told: str, error_code: int = INVALID_PARAMETER_VALUE) -> None:
        super().__init__(told, error_code=error_code)
        self.told = told
        self.status: int = self.get_http_status_code()  # type: ignore[no-untyped-call]


class StrictModel:
    """A model as MLflow's function calls it, which refuses params that its signature does not name.

    Args:
        model: the loaded model.
    """

    def __init__(self, model: Any) -> None:
        self.metadata = model.metadata
        self._model = model
        schema = model.metadata.get_params_schema()
        self._params = {param.name: param for param in schema.params} if schema else {}

    def predict(self, data: Any, params: Any = None) -> Any:
        """Return the answers of the model.

        Raises:
            Refusal: params or data cannot be used, or the model failed.
        """
        self._check(params)
        try:
            return self._model.predict(data, params=params)
        except MlflowException as error:
            raise Refusal(error.message) from None
        except Exception as error:
            raise Refusal(_tell_failure(error), INTERNAL_ERROR) from None

    def _check(self, params: Any) -> None:
        if params is not None and not isinstance(params, dict):
            raise Refusal(f"params: expected an object, got a {type(params).__name__}")
        known = ", ".join(self._params) or "none"
        for name, value in (params or {}).items():
            if name not in self._params:
                raise Refusal(f"params: expected {known}, got {name[:40]!r}")
            spec = self._params[name]
            try:
                ParamSpec.validate_param_spec(value, spec)
            except MlflowException:
                raise Refusal(f"params: {name}: expected a {spec.dtype.name}, got a {type(value).__name__}") from None


def invoke(body: bytes, kind: str, model: StrictModel) -> tuple[int, str, str]:
    """Answer a request; return status, content and media type.

    Args:
        body: what was sent.
        kind: its content type.
        model: what answers.
    """
    try:
        answer = _call_mlflow(body, kind, model, model.metadata.get_input_schema())
        return answer.status, answer.response, answer.mimetype
    except Refusal as error:
        status, code, message = error.status, error.error_code, error.told
    except (MlflowException, RecursionError) as error:  # raised by MLflow, with what was sent
        cause = error.__cause__
        reason = f"{type(cause).__name__}: {cause}; " if isinstance(cause, json.JSONDecodeError) else ""
        status, code, message = 400, "BAD_REQUEST", f"the request cannot be read: {reason}{_EXPECTED}"
    except Exception as error:
        status, code, message = 500, "INTERNAL_ERROR", _tell_failure(error)
    return status, json.dumps({"error_code": code, "message": message}), "application/json"


def _tell_failure(error: Exception) -> str:
    """Log where an unexpected error was raised, without its message, which may hold a text; return what to answer."""
    kind, place = type(error).__name__, "".join(traceback.format_tb(error.__traceback__))
    logger.error("unexpected %s of the model at\n%s", kind, place)
    return f"unexpected error of the model: {kind}; the log of the server says where"


def serving_config(app: Any, **settings: Any) -> uvicorn.Config:
    """Return the settings with which uvicorn serves the application.

    Args:
        app: the application, or its name.
        settings: further ones of uvicorn.
    """
    return uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=75,  # longer than proxies keep a connection, which else send into a closing one
        timeout_graceful_shutdown=STOP_SECONDS,
        **settings,
    )


def serve(config: uvicorn.Config, **sockets: Any) -> None:
    """Serve until SIGTERM or Ctrl-C, finish the open requests, and end the process with code 0."""
    import signal

    server = uvicorn.Server(config)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)  # uvicorn restores these at its end and raises the signal again

    async def run() -> None:
        await server.serve(**sockets)
        os._exit(0 if server.started else 3)  # threads that still compute would hold the process for as long

    asyncio.run(run())


def main() -> None:
    """Serve the model of a directory, whose files the model itself checks."""
    parser = argparse.ArgumentParser(description="Serve a logged model over HTTP.")
    parser.add_argument("--model", required=True, help="directory of the model")
    parser.add_argument("--name", help="what answers name as their version (default: the directory)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args()
    try:
        model = StrictModel(mlflow.pyfunc.load_model(options.model))
    except (MlflowException, ImportError, OSError, ValueError) as error:
        raise SystemExit(f"{options.model}: cannot be loaded: {error}") from None
    app = ScoringApp(Served(options.name or options.model, model))
    serve(serving_config(app, host=options.host, port=options.port))


if __name__ == "__main__":
    main()
