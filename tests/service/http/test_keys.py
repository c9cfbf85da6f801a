"""Keys: shown once, kept hashed, each opening what its scope says, ended at once."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from service.client import Client
from service.errors import OverQuota, Unauthorized
from service.records import Records, open_records
from service.records.restore import restore
from service.records.tenants import Grant, hash_key
from service.settings import Settings
from tests.support.api import Api, upload
from training.data import Sample

# What a key of scope classify opens. Any other call of the contract must refuse it.
CLASSIFY = {
    "POST /classify",
    "POST /v1/classify",
    "POST /v1/embeddings",
    "GET /v1/models",
    "GET /v1/adapters",
    "GET /v1/adapters/{adapter}",
    "GET /v1/adapters/{adapter}/versions/{version}",
}
_ITERATION = "POST /customvision/v3.1/prediction/{project}/classify/iterations/{published_name}"
CLASSIFY |= {f"{_ITERATION}/{what}{form}" for what in ("image", "url") for form in ("", "/nostore")}
OPEN = {"GET /healthz", "GET /readyz", "GET /metrics"}


@pytest.fixture
def records(settings: Settings) -> Records:
    few = settings.model_copy(update={"max_tenant_keys": 4})
    return open_records(settings.redis_url, settings.blob_url, few)


@pytest.fixture(scope="module")
def narrow(api: Api, tenant: Client) -> Client:
    """A client with a key of the same tenant that may only classify."""
    made = tenant.call("POST", "/v1/keys", json={"scope": "classify"})
    return api.clients.enter_context(Client(api.url, made["api_key"], wait_seconds=0))


def calls(api: Api) -> set[str]:
    paths = httpx.get(f"{api.url}/openapi.json").json()["paths"]
    return {f"{method.upper()} {path}" for path, item in paths.items() for method in item}


def ask(client: Client, call: str, **options) -> httpx.Response:
    method, path = call.split(" ")
    return client.http.request(method, re.sub(r"\{\w+\}", "1", path), **options)


# --- over HTTP ---


def test_every_call_that_a_classify_key_may_not_make_says_which_scope_it_needs(
    api: Api, narrow: Client
) -> None:
    """Over all calls of the OpenAPI file, so that a new one cannot be forgotten here."""
    assert calls(api) >= CLASSIFY | OPEN
    bodies = {
        "POST /v1/tenants": {"name": "x"},
        "POST /v1/datasets": {"name": "x"},
        "POST /v1/jobs": {"dataset": "x", "adapter": "x"},
        "POST /v1/keys": {"scope": "manage"},
        "PUT /v1/adapters/{adapter}/live": {"version": 1},
    }
    for call in calls(api) - CLASSIFY - OPEN:
        response = ask(narrow, call, json=bodies.get(call))
        assert response.status_code == 403, (call, response.text)
        needed = "admin key" if "/v1/tenants" in call else "scope manage"
        assert needed in response.json()["detail"], call


def test_what_a_classify_key_may_call_it_may(narrow: Client) -> None:
    for call in CLASSIFY:
        assert ask(narrow, call).status_code in (200, 400, 404, 422), call


@pytest.mark.parametrize("scope", ["classify", "manage"])
def test_a_tenant_makes_lists_and_ends_its_own_keys(api: Api, tenant: Client, scope: str) -> None:
    made = tenant.call("POST", "/v1/keys", json={"scope": scope})
    assert set(made) == {"key_id", "scope", "created_at", "last_used_at", "api_key"}
    listed = {item["key_id"]: item for item in tenant.pages("/v1/keys")}
    same = ("key_id", "scope", "created_at", "last_used_at")
    assert listed[made["key_id"]] == {k: made[k] for k in same}
    assert made["api_key"] not in json.dumps(listed)
    with Client(api.url, made["api_key"]) as client:
        assert client.call("GET", "/v1/adapters")["items"] == []
        assert tenant.http.delete(f"/v1/keys/{made['key_id']}").status_code == 204
        assert client.http.get("/v1/adapters").status_code == 401
    assert tenant.http.delete(f"/v1/keys/{made['key_id']}").status_code == 404


def test_keys_are_listed_in_pages(api: Api) -> None:
    client = api.new_tenant()
    for _ in range(3):
        client.call("POST", "/v1/keys", json={})
    first = client.call("GET", "/v1/keys", params={"limit": 3})
    rest = client.call("GET", "/v1/keys", params={"limit": 3, "cursor": first["cursor"]})
    ids = [item["key_id"] for item in first["items"] + rest["items"]]
    assert (len(ids), rest["cursor"]) == (4, None)
    assert ids == sorted(set(ids))


def test_the_last_key_that_manages_cannot_go(api: Api) -> None:
    client = api.new_tenant()
    client.call("POST", "/v1/keys", json={"scope": "classify"})
    (own,) = (k["key_id"] for k in client.pages("/v1/keys") if k["scope"] == "manage")
    assert client.http.delete(f"/v1/keys/{own}").status_code == 409
    assert len(list(client.pages("/v1/keys"))) == 2


def test_anothers_key_is_404(api: Api, tenant: Client) -> None:
    other = api.new_tenant()
    theirs = next(iter(tenant.pages("/v1/keys")))["key_id"]
    assert other.http.delete(f"/v1/keys/{theirs}").status_code == 404


@pytest.mark.parametrize(
    ("body", "ends"), [(None, "manage"), ({}, "manage"), ({"scope": "classify"}, "classify")]
)
def test_a_rotation_ends_all_keys_of_its_scope_and_no_others(
    api: Api, body: dict | None, ends: str
) -> None:
    client = api.new_tenant()
    keys = {
        scope: client.call("POST", "/v1/keys", json={"scope": scope})["api_key"]
        for scope in ("classify", "manage")
    } | {"first": client.http.headers["authorization"].split()[1]}
    with api.admin() as admin:
        path = f"/v1/tenants/{client.tenant}/keys"
        options = {} if body is None else {"json": body}
        response = admin.http.post(path, **options)
        assert response.status_code == 201
        assert set(response.json()) == {"tenant", "api_key"}
    ended = {"manage": {"manage", "first"}, "classify": {"classify"}}[ends]
    for name, key in keys.items():
        with Client(api.url, key) as old:
            assert old.http.get("/v1/adapters").status_code == (401 if name in ended else 200)
    with Client(api.url, response.json()["api_key"]) as new:
        status = {"manage": 200, "classify": 403}[ends]
        assert new.http.get("/v1/keys").status_code == status


@pytest.mark.parametrize("body", [{"scope": "admin"}, {"scope": 1}, {"other": 1}, [], "x"])
def test_a_scope_that_there_is_not_is_422(api: Api, tenant: Client, body: object) -> None:
    assert tenant.http.post("/v1/keys", json=body).status_code == 422
    with api.admin() as admin:
        path = f"/v1/tenants/{tenant.tenant}/keys"
        assert admin.http.post(path, json=body).status_code == 422


# --- records ---


def test_a_key_opens_its_tenant_until_it_is_rotated(records: Records) -> None:
    tenant, key = records.tenants.create("Acme")
    assert records.tenants.authenticate(key) == Grant(tenant.id, "manage")
    _, new = records.tenants.rotate(tenant.id)
    assert records.tenants.authenticate(new) == Grant(tenant.id, "manage")
    with pytest.raises(Unauthorized):
        records.tenants.authenticate(key)


def test_keys_are_a_quota(records: Records) -> None:
    tenant, _ = records.tenants.create("many")
    made = [records.tenants.add_key(tenant.id, "classify")[0] for _ in range(3)]
    with pytest.raises(OverQuota, match="quota of keys: 4 of 4 are used"):
        records.tenants.add_key(tenant.id, "classify")
    records.tenants.revoke_key(tenant.id, made[0].id)
    records.tenants.add_key(tenant.id, "classify")


def test_keys_made_at_the_same_time_are_all_kept(records: Records) -> None:
    tenant, _ = records.tenants.create("busy")
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda _: records.tenants.add_key(tenant.id, "classify"), range(3)))
    assert {key.id for key, _ in made} < {key.id for key in records.tenants.get(tenant.id).keys}
    assert all(records.tenants.authenticate(api_key).scope == "classify" for _, api_key in made)


def forget(records: Records, *names: str) -> None:
    for name in records.store.scan_iter(match="rmadapter:*"):
        if any(part in name for part in names):
            records.store.delete(name)


def test_keys_and_their_scopes_survive_a_restore(records: Records) -> None:
    tenant, key = records.tenants.create("restored")
    kept, narrow = records.tenants.add_key(tenant.id, "classify")
    ended, gone = records.tenants.add_key(tenant.id, "classify")
    records.tenants.revoke_key(tenant.id, ended.id)
    hashes = [hash_key(k) for k in (key, narrow, gone)]
    forget(records, tenant.id, *hashes)
    records.store.hdel("rmadapter:tenant-names", tenant.id)
    restore(records)
    assert records.tenants.authenticate(key) == Grant(tenant.id, "manage")
    assert records.tenants.authenticate(narrow) == Grant(tenant.id, "classify")
    assert [k.id for k in records.tenants.get(tenant.id).keys][1:] == [kept.id]
    with pytest.raises(Unauthorized):
        records.tenants.authenticate(gone)


@pytest.mark.parametrize("from_blobs", [False, True], ids=["in Redis", "restored"])
def test_an_earlier_releases_record_with_one_key_is_read(
    records: Records, from_blobs: bool
) -> None:
    tenant, key = records.tenants.create("old")
    plain = {"id": tenant.id, "name": "old", "created_at": tenant.created_at}
    record = json.dumps(plain | {"key_hash": hash_key(key)})
    records.blobs.put(f"tenants/{tenant.id}/tenant.json", record.encode())
    records.store.hset("rmadapter:tenant-names", tenant.id, record)
    records.store.set(f"rmadapter:api-key:{hash_key(key)}", tenant.id)
    if from_blobs:
        forget(records, hash_key(key))
        restore(records)
    assert records.tenants.authenticate(key) == Grant(tenant.id, "manage")
    (old,) = records.tenants.get(tenant.id).keys
    assert (old.scope, old.created_at) == ("manage", tenant.created_at)
    records.tenants.rotate(tenant.id)
    with pytest.raises(Unauthorized):
        records.tenants.authenticate(key)


def test_an_erased_tenants_keys_open_nothing(records: Records) -> None:
    tenant, key = records.tenants.create("erased")
    _, narrow = records.tenants.add_key(tenant.id, "classify")
    records.tenants.erase(tenant.id)
    for one in (key, narrow):
        with pytest.raises(Unauthorized):
            records.tenants.authenticate(one)


def test_a_keys_last_use_is_listed_and_a_new_key_has_none(api: Api) -> None:
    client = api.new_tenant()
    unused = client.call("POST", "/v1/keys", json={"scope": "classify"})
    listed = {key["key_id"]: key["last_used_at"] for key in client.pages("/v1/keys")}
    assert listed.pop(unused["key_id"]) is None
    (used,) = listed.values()
    assert used is not None and used[:4] >= "2026"


def test_a_key_that_ended_leaves_no_note_of_its_use(api: Api) -> None:
    client = api.new_tenant()
    made = client.call("POST", "/v1/keys", json={"scope": "classify"})
    with Client(api.url, made["api_key"]) as app:
        app.call("GET", "/v1/adapters")
    store = api.components.records.store
    name = f"rmadapter:api-key:{hash_key(made['api_key'])}:used"
    assert store.exists(name)
    client.call("DELETE", f"/v1/keys/{made['key_id']}")
    assert not store.exists(name)


def test_a_tenant_and_the_administrator_see_what_it_uses(api: Api, samples: list[Sample]) -> None:
    client = api.new_tenant()
    upload(client, samples[:2])
    quotas = client.call("GET", "/v1/quotas")["quotas"]
    limit = api.components.settings.max_tenant_images
    assert quotas["images"] == {"used": 2, "limit": limit}
    assert quotas["bytes"]["used"] == sum(len(sample.data) for sample in samples[:2])
    assert quotas["datasets"]["used"] == 1
    assert quotas["record_bytes"]["used"] > 0
    with api.admin() as admin:
        seen = {one["tenant"]: one["quotas"] for one in admin.pages("/v1/tenants")}
    assert seen[client.tenant] == quotas
