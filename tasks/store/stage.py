"""The `@stage` decorator: turns a function that writes one stage output into a Prefect task.

The function's first parameter is a `StageOutput`; its inputs follow. The task takes only the inputs and returns the
`ArtifactRef` of the output. If the store already has the output, the function is not called, and the task run ends in
the state `Cached`, which the Prefect UI and the command line show.
"""

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, cast

from prefect import Task, task
from prefect.context import TaskRunContext
from prefect.states import Completed

from pipeline_config.masking import masked_errors
from tasks.runtime.memory import keep_freed_memory
from tasks.store.artifacts import ArtifactRef, stage_key
from tasks.store.commit import commit_output
from tasks.store.output import StageOutput

P = ParamSpec("P")
logger = logging.getLogger(__name__)


def stage(
    *, version: int, unkeyed: tuple[str, ...] = (), **options: Any
) -> Callable[[Callable[Concatenate[StageOutput, P], None]], Task[..., ArtifactRef]]:
    """Turn a function into a stage task. The function's name is the name of the task and of its outputs.

    The task's parameters are untyped: Prefect accepts futures as arguments, but its types refuse them.

    Args:
        version: part of the key; raise it when the function's output changes for the same inputs.
        unkeyed: names of inputs that cannot change the output and are not part of the key.
        options: further options of `prefect.task`, such as retries.
    """

    def decorate(write: Callable[Concatenate[StageOutput, P], None]) -> Task[..., ArtifactRef]:
        name = write.__name__
        signature = inspect.signature(write)
        inputs_only = signature.replace(
            parameters=list(signature.parameters.values())[1:], return_annotation=ArtifactRef
        )

        @functools.wraps(write)
        def run(*args: P.args, **kwargs: P.kwargs) -> ArtifactRef:
            keep_freed_memory()
            bound = inputs_only.bind(*args, **kwargs)
            bound.apply_defaults()
            inputs = {key: value for key, value in bound.arguments.items() if key not in unkeyed}
            with masked_errors():
                reference, computed = commit_output(
                    name, stage_key(name, version, inputs), lambda output: write(output, *args, **kwargs), inputs=inputs
                )
            logger.info("%s", describe_output(reference, computed=computed))
            if not computed and TaskRunContext.get():
                return cast("ArtifactRef", Completed(name="Cached", message=reference.key, data=reference))
            return reference

        run.__signature__ = inputs_only  # type: ignore[attr-defined]
        run.__annotations__ = {key: p.annotation for key, p in inputs_only.parameters.items()}
        made: Task[..., ArtifactRef] = task(
            name=name, version=str(version), task_run_name=name.replace("_", " "), persist_result=False, **options
        )(run)
        return made

    return decorate


def describe_output(reference: ArtifactRef, *, computed: bool) -> str:
    """Return one line about a stage output: its name, its seconds or `cached`, and its first facts."""
    seconds = f"{reference.facts['seconds']:7.1f} s" if computed else "   cached"
    facts = ", ".join(f"{key.replace('_', ' ')} {_shown(value)}" for key, value in headline_facts(reference))
    return f"{reference.stage:20} {seconds}  {facts}"


def headline_facts(reference: ArtifactRef, most: int = 4) -> list[tuple[str, Any]]:
    """Return the first facts of an output that are numbers or texts."""
    plain = [(k, v) for k, v in reference.facts.items() if k != "seconds" and isinstance(v, int | float | str)]
    return plain[:most]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if value < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
