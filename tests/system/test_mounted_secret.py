"""A service on the Secret as its pod mounts it: each key that is named like a setting is that setting."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import manifest_rules as rules
import manifests
import pytest
from manifests import OVERLAYS, named, pod_template, render, render_with

from support.process import serving
from support.secret_files import SecretFolder
from support.servers import PostgresServer
from support.settings import API_KEY, ENCRYPTION_KEY
from support.waiting import wait_until

pytestmark = pytest.mark.skipif(
    not manifests.renderers(), reason="neither kubectl nor kustomize is on PATH; scripts/install-tools brings kustomize"
)
FOLDER = "/var/run/secrets/user-service"


def mounted_keys(pod: dict[str, Any], keys: set[str]) -> set[str]:
    """Which keys of microservices-secrets are files in the pod's folder of secrets."""
    [container] = pod["containers"]
    [volume] = [m["name"] for m in container["volumeMounts"] if m["mountPath"] == FOLDER]
    [source] = [v for v in pod["volumes"] if v["name"] == volume]
    sources = [source["secret"]] if "secret" in source else [s["secret"] for s in source["projected"]["sources"]]
    assert {s.get("secretName", s.get("name")) for s in sources} == {"microservices-secrets"}
    chosen = [{item["key"] for item in s["items"]} if "items" in s else keys for s in sources]
    return keys & set().union(*chosen)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_workload_of_the_service_mounts_the_whole_secret(overlay: str) -> None:
    keys = {"DATABASE_URL", "REDIS_URL", "BLIND_INDEX_KEY", "ENCRYPTION_KEY", "INTERNAL_API_KEY", "JWT_ISSUER"}
    templates = [t for d in render(overlay) if d["kind"] != "JobSink" and (t := pod_template(d))]
    own = [t["spec"] for t in templates if "envFrom" in t["spec"]["containers"][0]]

    assert len(own) >= 3
    assert [mounted_keys(pod, keys) for pod in own] == [keys] * len(own)


def test_a_url_with_a_password_is_a_key_of_the_secret(
    database_url: str, postgres: PostgresServer, redis_url: str, tmp_path: Path
) -> None:
    """The settings are those of production's ConfigMap, whose PostgreSQL and Redis are not there."""
    documents = render("k8s-fallback/overlays/production")
    role, database = f"app_{tmp_path.name[-12:].replace('-', '_')}", urlsplit(database_url).path.lstrip("/")
    postgres.execute(f"CREATE ROLE \"{role}\" LOGIN SUPERUSER PASSWORD 'pass-of-the-url'")
    with_password = database_url.replace("//postgres@", f"//{role}:pass-of-the-url@")
    values = {
        "DATABASE_URL": with_password,
        "REDIS_URL": redis_url,
        "ENCRYPTION_KEY": ENCRYPTION_KEY,
        "INTERNAL_API_KEY": API_KEY,
    }
    pod = named(documents, "Deployment", "user-service-deployment")["spec"]["template"]["spec"]
    files = {key: values[key] for key in mounted_keys(pod, set(values))}
    secrets = SecretFolder(tmp_path / "secrets", **files)

    with serving(tmp_path, **rules.settings(documents), **secrets.environ) as service, service.client() as client:
        wait_until(lambda: client.get("/api/health/ready").status_code == 200, "the service")
        assert client.post("/api/v1/users", json={"email": "ada@example.org"}).status_code == 201
        seen = postgres.execute(
            f"SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = '{role}' AND datname = '{database}'"
        )
    assert seen.strip().splitlines()[-1].strip() in {"t", "True"}


def test_a_secret_store_fills_in_every_key_that_it_has(tmp_path: Path) -> None:
    """So BLIND_INDEX_KEY and the URLs too, and none that the store lacks is asked for: that would fail the whole."""
    documents = render_with("knative/overlays/production", ["k8s-common/components/external-secrets"], tmp_path)
    spec = named(documents, "ExternalSecret")["spec"]

    assert spec["dataFrom"] == [{"extract": {"key": "user-service"}}]
    assert "data" not in spec
    assert spec["target"]["name"] == "microservices-secrets"
