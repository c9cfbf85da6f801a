"""What tests of the HTTP contract share: one tenant a file, and an empty data set of it."""

import pytest

from service.client import Client
from tests.support.api import Api


@pytest.fixture(scope="module")
def tenant(api: Api) -> Client:
    """Shared by the tests of a file."""
    return api.new_tenant()


@pytest.fixture(scope="module")
def dataset(tenant: Client) -> str:
    """An empty data set of that tenant."""
    return tenant.create_dataset("bodies")
