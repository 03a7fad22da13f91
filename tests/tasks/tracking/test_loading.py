import pytest

from pipeline_config.errors import ServiceError
from tasks.tracking.loading import load_model
from tasks.tracking.server import open_client


@pytest.fixture
def unaliased(tracked):
    open_client().create_registered_model("known")


@pytest.mark.usefixtures("unaliased")
@pytest.mark.parametrize("name", ["unknown", "known"], ids=["no model", "no alias"])
def test_loading_what_is_not_registered_says_what_to_do(name):
    message = f"models:/{name}@champion: no such registered model; `gloveflow run` makes one"
    with pytest.raises(ServiceError) as caught:
        load_model(name, "champion")
    assert str(caught.value) == message
