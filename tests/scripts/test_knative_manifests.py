"""What Knative makes of the manifests: how it scales, starts and wires the service, and what a dead letter leaves."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import custom_resources
import manifests
import pytest
from manifests import named, render, render_with

from support.secret_files import SecretFolder
from user_service.events.types import (
    BATCH_OPERATIONS,
    BATCH_RESULT,
    BATCH_SCHEMAS,
    CHANGES,
    SCHEMA_URI,
    USER_CHANGE,
    USER_EVENT,
)

pytestmark = pytest.mark.skipif(
    not manifests.renderers(), reason="neither kubectl nor kustomize is on PATH; scripts/install-tools brings kustomize"
)
SCALING = "autoscaling.knative.dev/"
EVENT = {
    "specversion": "1.0",
    "id": "e1",
    "source": "/orders",
    "type": "org.userservice.batch.create.v1",
    "knativeerrorcode": "400",
    "data": {"items": [{"data": {"email": "ada@example.org"}}]},
}


@pytest.fixture(scope="module")
def production() -> list[dict[str, Any]]:
    return render("knative/overlays/production")


def knative_services(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {d["metadata"]["name"]: d for d in documents if manifests.is_knative_service(d)}


def test_knative_services_are_set_up_for_reads_and_for_batches(production: list[dict[str, Any]]) -> None:
    services = knative_services(production)
    api, events = services["user-service"], services["user-service-events"]
    scaling = "autoscaling.knative.dev/"
    api_scaling = api["spec"]["template"]["metadata"]["annotations"]

    assert {name: api_scaling[scaling + name] for name in ("target", "target-burst-capacity", "min-scale")} == {
        "target": "80",
        "target-burst-capacity": "200",
        "min-scale": "1",
    }
    assert (api_scaling[scaling + "scale-down-delay"], api_scaling[scaling + "activation-scale"]) == ("30s", "2")
    assert api["spec"]["template"]["spec"]["containerConcurrency"] == 100
    assert api["spec"]["template"]["spec"]["timeoutSeconds"] == 60
    assert events["spec"]["template"]["spec"]["containerConcurrency"] == 4
    assert events["spec"]["template"]["metadata"]["annotations"][scaling + "min-scale"] == "0"
    assert events["metadata"]["labels"]["networking.knative.dev/visibility"] == "cluster-local"
    assert not any(name.startswith(scaling) for name in api["metadata"]["annotations"])


def test_dev_scales_to_zero() -> None:
    services = [d for d in render("knative/overlays/dev") if manifests.is_knative_service(d)]

    scales = [s["spec"]["template"]["metadata"]["annotations"]["autoscaling.knative.dev/min-scale"] for s in services]
    assert scales == ["0", "0"]


def test_an_unknown_batch_reply_does_not_come_back(production: list[dict[str, Any]]) -> None:
    trigger = named(production, "Trigger")["spec"]
    types = [accepted["exact"]["type"] for accepted in trigger["filters"][0]["any"]]

    assert types == [f"org.userservice.batch.{verb}.v1" for verb in ("create", "update", "delete", "restore", "find")]
    assert (trigger["delivery"]["retry"], trigger["delivery"]["backoffPolicy"]) == (10, "exponential")
    assert trigger["delivery"]["deadLetterSink"]["ref"]["name"] == named(production, "JobSink")["metadata"]["name"]


@pytest.mark.parametrize("overlay", ["dev", "production"])
def test_nothing_slows_a_start_from_zero(overlay: str) -> None:
    """With a startup probe the activator waits for the kubelet's word; two pods at once share the processor."""
    for service in knative_services(render(f"knative/overlays/{overlay}")).values():
        template = service["spec"]["template"]
        [container] = template["spec"]["containers"]

        assert "startupProbe" not in container
        assert "periodSeconds" not in container["readinessProbe"]
        annotations = template["metadata"]["annotations"]
        assert annotations[SCALING + "min-scale"] != "0" or annotations.get(SCALING + "activation-scale", "1") == "1"


@pytest.mark.parametrize("overlay", ["dev", "production"])
def test_the_broker_and_the_binding_come_before_the_services(overlay: str) -> None:
    documents = render(f"knative/overlays/{overlay}")
    kinds = [d["kind"] if not manifests.is_knative_service(d) else "KnativeService" for d in documents]
    by_step = {d["kind"] for d in documents if d["metadata"]["labels"]["app.kubernetes.io/component"] == "broker"}

    assert kinds[0] == "Namespace"
    for kind in ("JobSink", "Broker", "SinkBinding"):
        assert kinds.index(kind) < kinds.index("KnativeService")
    assert by_step == {"Broker", "SinkBinding", "JobSink"}


def test_every_type_of_event_is_registered_as_the_code_has_it(production: list[dict[str, Any]]) -> None:
    found = {}
    for event_type in (d for d in production if d["kind"] == "EventType"):
        attributes = {attribute["name"]: attribute.get("value") for attribute in event_type["spec"]["attributes"]}
        assert event_type["spec"]["reference"]["name"] == named(production, "Broker")["metadata"]["name"]
        # Without one of these, Knative refuses the object.
        assert attributes.keys() >= {"specversion", "id", "source", "type"}
        found[attributes["type"]] = attributes.get("dataschema")

    schema = SCHEMA_URI.format(USER_CHANGE)
    assert found == {
        **{USER_EVENT.format(kind): schema for kind in CHANGES},
        **dict.fromkeys(BATCH_OPERATIONS),
        # A refused batch has another schema.
        **{BATCH_RESULT.format(operation): None for operation in BATCH_SCHEMAS},
        BATCH_RESULT.format("find"): SCHEMA_URI.format(BATCH_SCHEMAS["find"][1]),
    }


def test_the_event_policy_lets_in_what_the_base_sends(tmp_path: Path) -> None:
    documents = render_with("knative/overlays/production", ["knative/components/event-policy"], tmp_path)
    policy = named(documents, "EventPolicy")

    for reference in (entry["ref"] for entry in (*policy["spec"]["to"], *policy["spec"]["from"])):
        assert named(documents, reference["kind"], reference["name"])["apiVersion"] == reference["apiVersion"]
    # With its Trigger: until that is there, the broker is not ready, and the deployment waits for the broker before.
    step = "app.kubernetes.io/component"
    assert policy["metadata"]["labels"][step] == named(documents, "Trigger")["metadata"]["labels"][step]
    if (folder := custom_resources.definitions_folder()) is not None:
        assert custom_resources.problems([policy], folder) == (1, [])


def test_the_broker_of_kafka_comes_with_its_settings(tmp_path: Path) -> None:
    kafka = render_with("knative/overlays/production", ["knative/components/kafka-broker"], tmp_path)
    config = named(kafka, "ConfigMap", named(kafka, "Broker")["spec"]["config"]["name"])

    assert config["metadata"]["labels"]["app.kubernetes.io/component"] == "broker"


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_dead_letter_is_named_in_the_log_without_its_data(
    production: list[dict[str, Any]], tmp_path: Path, is_folder: bool
) -> None:
    """K_EVENT_PATH is the folder where the JobSink mounts the Secret, whose key is `event`."""
    [container] = named(production, "JobSink")["spec"]["job"]["spec"]["template"]["spec"]["containers"]
    folder = SecretFolder(tmp_path / "jobsink-event", event=json.dumps(EVENT)).folder
    path = folder if is_folder else folder / "event"

    job = subprocess.run(
        [sys.executable, *container["command"][1:], *container["args"]],
        env={"PATH": os.environ["PATH"], "K_EVENT_PATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert job.returncode == 0, job.stderr
    assert json.loads(job.stderr) == {
        "event": "dead_letter",
        **{name: EVENT.get(name) for name in ("id", "source", "type", "subject", "knativeerrorcode")},
    }
