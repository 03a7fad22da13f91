"""Parts about company: several runs, users and promoters at the same time."""

import contextlib
import json
import os
import re
import sqlite3
import stat
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tasks.store.commit import commit_output
from tasks.store.disk_errors import find_store_error
from tests.campaigns.release.small_disks import become
from tests.campaigns.release.small_runs import (
    SmallRuns,
    find_unfinished,
    import_all,
    in_fork,
    start_fork,
    using_artifacts,
    wait_for,
)
from tests.campaigns.release.trials import Part, Trials
from tests.campaigns.release.whole_runs import output_digests
from tests.small_run import set_options, small_run, write_corpus, write_inputs

RUNS = PROMOTERS = 8
WHOLE_RUNS = 3
USERS = (20001, 20002)
GROUP = 20003
MINIMUM = 0.5
# of the right answers of promoted models: on 240 test documents each is significantly better than the one before, at
# the level of one look of 365
SHARES = (0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)
DOCUMENTS, LOOKS = 2400, 365
_COMPUTED = re.compile(r"^\d\d:\d\d:\d\d  (\w+) +[\d.]+ s  ", re.MULTILINE)


def play_eight_runs(trials: Trials) -> None:
    """Start eight runs on one new store: of one configuration, of two, of four, ..."""
    if trials.count < WHOLE_RUNS:
        for number in range(trials.count):
            _commit_together(trials, trials.folder / f"artifacts-{number}")
        return
    with SmallRuns(trials.folder) as runs:
        epochs = [2, 3, 4, 5]
        one_by_one = trials.folder / "one-by-one"
        for number in epochs:
            runs.commands.run(one_by_one, *runs.options, *set_options([f"training.epochs={number}"]))
        alone = output_digests(one_by_one)
        for number in range(trials.count):
            kinds = epochs[: 2 ** (number % 3)]
            artifacts = trials.folder / f"artifacts-{number}"
            started = [
                runs.commands.start(
                    artifacts, *runs.options, *set_options([f"training.epochs={kinds[i % len(kinds)]}"])
                )
                for i in range(RUNS)
            ]
            ended = [command.wait(900) for command in started]
            problem = _check_together(artifacts, ended, alone, kinds=len(kinds))
            trials.check(f"{RUNS} runs of {len(kinds)} configurations", problem)


def _commit_together(trials: Trials, artifacts: Path) -> None:
    """Commit the same outputs from eight processes at once, each in an order of its own."""
    orders = [trials.draw.sample(range(20), 20) for _ in range(RUNS)]

    def commit_all(order: list[int]) -> str:
        made = [
            commit_output("numbers", f"{n:032x}", lambda output, n=n: output.write_json("n.json", n)) for n in order
        ]  # type: ignore[misc]
        return "\n".join(f"{reference.key} {reference.digest}" for reference, computed in made if computed)

    with using_artifacts(artifacts):
        children = [
            start_fork(lambda i=i, order=order: (trials.folder / f"made-{i}").write_text(commit_all(order)))  # type: ignore[misc]
            for i, order in enumerate(orders)
        ]
        codes = [wait_for(child) for child in children]
    lines = [line for i in range(RUNS) for line in (trials.folder / f"made-{i}").read_text().splitlines()]
    made = dict(line.split() for line in lines)
    if any(codes) or {f"numbers/{key}": digest for key, digest in made.items()} != output_digests(artifacts):
        trials.record_wrong(f"the processes ended with {codes} and made {made}")
    elif len(lines) != 20:
        trials.record_wrong(f"20 outputs were computed {len(lines)} times")
    else:
        trials.passed()


def _check_together(artifacts: Path, ended: list[tuple[int | None, str]], alone: dict[str, str], *, kinds: int) -> str:
    for code, output in ended:
        if code != 0 or "Traceback" in output:
            return f"code {code}: {output[-2000:]}"
    found = output_digests(artifacts)
    if not found.items() <= alone.items():
        return f"other outputs than alone: {sorted(found.items() - alone.items())}"
    made = Counter(stage for _, output in ended for stage in _COMPUTED.findall(output))
    outputs = Counter(name.partition("/")[0] for name in found)
    if made != outputs:
        return f"outputs that were computed: {made}, expected {outputs}"
    return find_unfinished(artifacts, versions=kinds)


def play_promoters(trials: Trials) -> None:
    """Register models with known scores from eight processes at once; the best that may be champion has to be it."""
    artifacts = trials.folder / "artifacts"
    with using_artifacts(artifacts):
        import_all()
        inputs = str(write_inputs(trials.folder))
        write_corpus(trials.folder / "corpus.csv", DOCUMENTS)
        chain = json.loads(in_fork(lambda: _make_models(inputs)))
        for number in range(trials.count):
            _play_round(trials, chain, f"round-{number}", artifacts)


def _play_round(trials: Trials, chain: dict[str, object], name: str, artifacts: Path) -> None:
    classifiers = chain["classifiers"]
    assert isinstance(classifiers, list)
    shares = trials.draw.sample(SHARES, len(classifiers))
    entrants = [number % len(classifiers) for number in range(PROMOTERS)]
    trials.draw.shuffle(entrants)
    children = [start_fork(lambda n=n: _promote(chain, name, n, shares[n])) for n in entrants]  # type: ignore[misc]
    codes = [wait_for(child) for child in children]
    with contextlib.closing(sqlite3.connect(artifacts / "mlflow" / "mlflow.db")) as database:
        model = (f"gloveflow-{name}",)
        versions = database.execute(
            "SELECT v.version, t.value FROM model_versions v JOIN model_version_tags t "
            "ON v.name = t.name AND v.version = t.version "
            "WHERE v.name = ? AND t.key = 'test_lstm_accuracy'",
            model,
        ).fetchall()
        aliases = dict(
            database.execute("SELECT alias, version FROM registered_model_aliases WHERE name = ?", model).fetchall()
        )
    registered = {int(version): round(float(score), 2) for version, score in versions}
    best = max(shares)
    champion = registered.get(int(aliases.get("champion", 0)))
    if any(codes):
        trials.record_wrong(f"{name}: the promoters ended with {codes}")
    elif sorted(registered.values()) != sorted(shares):
        trials.record_wrong(f"{name}: versions {registered}, expected one for each of {shares}")
    elif "challenger" not in aliases or champion != (best if best >= MINIMUM else None):
        trials.record_lost(f"{name}: champion {champion}, aliases {aliases}, expected {best} of {shares}")
    else:
        trials.passed()


def _make_models(inputs: str) -> str:
    """Run the stages, train some more models, and return the references as JSON."""
    from pipeline_config.resolve import resolve_config
    from tasks.tracking.server import open_client
    from tests.registrations import train_another
    from tests.stage_chain import run_chain

    chain = run_chain(resolve_config(preset="smoke", overrides=small_run(Path(inputs))).config)
    classifiers = [chain.classifier]
    for seed in (1, 2, 3):
        classifiers.append(train_another(chain._replace(config=chain.config.model_copy(update={"seed": seed}))))
    open_client()
    return json.dumps(
        {
            "config": chain.config.model_dump(mode="json"),
            "classifiers": [reference.model_dump() for reference in classifiers],
            **{
                name: getattr(chain, name).model_dump()
                for name in ("vocabulary", "evaluation", "documents", "baseline")
            },
        }
    )


def _promote(chain: dict[str, object], name: str, number: int, score: float) -> None:
    from types import SimpleNamespace

    from pipeline_config.registration import GateRule
    from pipeline_config.settings import PipelineConfig
    from tasks.store.artifacts import ArtifactRef
    from tests.registrations import register

    classifiers = chain["classifiers"]
    assert isinstance(classifiers, list)
    config = PipelineConfig.model_validate(chain["config"])
    minimum = GateRule(against="value", value=MINIMUM, require="any")
    registration = {"metric": "accuracy", "rules": (minimum, GateRule(require="better")), "looks": LOOKS}
    rules = config.registration.model_copy(update=registration)
    toy = SimpleNamespace(
        config=config.model_copy(update={"name": name, "registration": rules}),
        classifier=ArtifactRef.model_validate(classifiers[number]),
        **{
            key: ArtifactRef.model_validate(chain[key]) for key in ("vocabulary", "evaluation", "documents", "baseline")
        },
    )
    register(toy, answers=score)


def play_two_users(trials: Trials) -> None:
    """Let two users of a machine work: each in a store of their own, then both in the store of the first."""
    for number in range(trials.count):
        folder = trials.folder / f"machine-{number}"
        folder.mkdir()
        for path in (trials.folder, folder):
            path.chmod(0o777)
        shared = bool(number % 2)
        problem = _share_by_group(folder) if shared else _keep_apart(folder)
        trials.check(f"{'one store of a group' if shared else 'a store each'}", problem)


def _keep_apart(folder: Path) -> str:
    for user in USERS:
        answer = in_fork(lambda user=user: _use_store(folder / str(user)), before=_as_user(user))  # type: ignore[misc]
        if answer != "done":
            return f"user {user}: {answer}"
    first, second = USERS
    everything = list((folder / str(first)).rglob("*"))
    readable = in_fork(
        lambda: "\n".join(map(str, filter(_can_open, everything))), before=_as_user(second, read_all=False)
    )
    if os.getuid() == 0 and readable:
        return f"another user can read {readable}"
    open_modes = [path for path in everything if _is_secret(path) and stat.S_IMODE(path.stat().st_mode) & 0o077]
    if open_modes:
        return f"others have rights on {open_modes}"
    if os.getuid() != 0:
        return ""
    answer = in_fork(lambda: _use_store(folder / str(first)), before=_as_user(second))
    return "" if "cannot be written: Permission denied; set GLOVEFLOW_ARTIFACTS" in answer else answer


def _share_by_group(folder: Path) -> str:
    """Two users of a group, in a directory of the group: the second is refused in plain words, or both get the output."""
    shared = folder / "shared"
    shared.mkdir()
    if os.getuid() == 0:
        os.chown(shared, USERS[0], GROUP)
    shared.chmod(0o2770)
    answers = [in_fork(lambda: _use_store(shared), before=_as_user(user, group=GROUP, umask=0o007)) for user in USERS]
    if answers[0] != "done":
        return answers[0]
    refused = "cannot be written: Permission denied; set GLOVEFLOW_ARTIFACTS" in answers[1]
    return "" if answers[1] == "done" or refused else answers[1]


def _use_store(artifacts: Path) -> str:
    """Do what a run does first: the secret of the server, a log, a lock, an output, a database."""
    from flows.cli.server_secret import make_secret
    from tasks.store.databases import prepare_database
    from tasks.store.private_files import open_to_append

    with using_artifacts(artifacts):
        try:
            make_secret(artifacts)
            open_to_append(artifacts / "logs" / "prefect-server.log").close()
            commit_output("words", "0" * 32, lambda output: output.write_json("words.json", [1]))
            prepare_database(artifacts / "mlflow" / "mlflow.db", migrate=_make_table, revision="1")
        except Exception as error:
            return str(find_store_error(error, artifacts) or traceback.format_exc())
    return "done"


def _make_table(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE IF NOT EXISTS alembic_version AS SELECT '1' AS version_num")
        database.commit()


def _is_secret(path: Path) -> bool:
    return path.suffix in (".db", ".log") or path.name == "auth-string"


def _can_open(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError:
        return False
    return True


def _as_user(user: int, *, group: int | None = None, umask: int = 0o022, read_all: bool = True) -> Callable[[], None]:
    """Return a function that makes this process one of another user, if it is root's."""

    def change() -> None:
        os.umask(umask)
        become(user, group or user, read_all=read_all)

    return change


PARTS = [
    Part("eight_runs", "eight runs on one store end well, and each output is computed once", play_eight_runs, count=3, quick=1),
    Part("two_users", "users cannot read each other's stores, and are told so", play_two_users, count=4, quick=2),
    Part("promoters", "the best version that the gate lets pass is the champion", play_promoters, count=50, quick=0),
]  # fmt: skip
