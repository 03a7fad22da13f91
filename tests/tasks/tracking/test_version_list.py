"""The list of registered versions, read from the database and asked of MLflow: both are the same."""

import pytest

from tasks.tracking import version_list, versions
from tasks.tracking.server import tracking_uri
from tasks.tracking.version_list import list_versions
from tests.registrations import MODEL, add_versions


@pytest.fixture
def root(registered, artifacts):
    add_versions("1", copies=2)
    versions.delete_version(MODEL, "2", why="a test")
    return artifacts


def test_the_database_says_what_mlflow_says(root, monkeypatch):
    with monkeypatch.context() as patch:  # the database alone
        patch.setattr(version_list, "_ask_server", lambda: pytest.fail("MLflow was asked"))
        found = list_versions(root)
    assert [(record.name, record.version, record.aliases) for record in found] == [
        (MODEL, 1, ("challenger", "champion")),
        (MODEL, 3, ()),
    ]
    assert found[0].score("lstm", "macro_f1") == float(found[0].tags["test_lstm_macro_f1"])
    assert found[0].score("lstm", "none") is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri())
    assert list_versions(root) == found


def test_without_a_database_there_is_none(artifacts):
    assert list_versions(artifacts) == []
    assert not artifacts.exists()
