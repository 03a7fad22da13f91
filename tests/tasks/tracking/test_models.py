from types import SimpleNamespace

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST

from pipeline_config.errors import ServiceError
from tasks.tracking import models
from tasks.tracking.models import find_alias, load_model
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

    @pytest.mark.usefixtures("unaliased")
    @pytest.mark.parametrize("name", ["unknown", "known"], ids=["no model", "no alias"])
    def test_loading_what_is_not_registered_says_what_to_do(self, name):
        message = f"models:/{name}@champion: no such registered model; `gloveflow run` makes one"
        with pytest.raises(ServiceError) as caught:
            load_model(name, "champion")
        assert str(caught.value) == message
