from types import SimpleNamespace

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST
from mlflow.utils import mlflow_tags

from tasks.tracking import models, server
from tasks.tracking.models import find_alias
from tasks.tracking.server import open_client


@pytest.fixture
def unaliased(tracked):
    open_client().create_registered_model("known")


class TestRegistryLookups:
    @pytest.mark.usefixtures("unaliased")
    def test_no_such_model_and_no_such_alias_are_none(self):
        assert find_alias("unknown", "champion") is None
        assert find_alias("known", "champion") is None

    @pytest.mark.parametrize("code", [RESOURCE_DOES_NOT_EXIST, INVALID_PARAMETER_VALUE, INTERNAL_ERROR])
    def test_only_errors_that_mean_absence_are_none(self, monkeypatch, code):
        def fail(*_: object) -> None:
            raise MlflowException("the server burns", error_code=code)

        monkeypatch.setattr(models, "open_client", lambda: SimpleNamespace(get_model_version_by_alias=fail))
        if code == INTERNAL_ERROR:
            with pytest.raises(MlflowException, match="the server burns"):
                find_alias("known", "champion")
        else:
            assert find_alias("known", "champion") is None


class TestPrivateNames:
    """What MLflow does not document and we use; the list is in flows/README.md."""

    def test_tags_that_we_write_are_those_that_the_pages_read(self):
        assert mlflow_tags.MLFLOW_MODEL_VERSIONS == "mlflow.modelVersions"
        assert mlflow_tags.MLFLOW_DATASET_CONTEXT == "mlflow.data.context"
        assert mlflow_tags.MLFLOW_RUN_NOTE == "mlflow.note.content"
        assert mlflow_tags.MLFLOW_SOURCE_NAME == "mlflow.source.name"
        assert mlflow_tags.MLFLOW_GIT_COMMIT == "mlflow.source.git.commit"
        assert mlflow_tags.MLFLOW_USER == "mlflow.user"

    def test_a_model_from_code_still_goes_through_a_global_variable(self):
        assert hasattr(mlflow.models.model, "__mlflow_model__")  # if it is gone, so is the reason for our lock

    def test_an_error_code_is_the_name_of_a_number(self):
        assert {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"} == server.ABSENT
        assert MlflowException("absent", error_code=RESOURCE_DOES_NOT_EXIST).error_code in server.ABSENT
