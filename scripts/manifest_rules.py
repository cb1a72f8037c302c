"""What must hold of the rendered manifests beyond their schemas: a rule returns what is wrong."""

from typing import Any

from manifests import Document, is_knative_service, named, pod_template

# Different on purpose: which doors a process opens, and whether it trusts the network around it.
ENV_OF_A_DOOR = {"SERVE", "EVENTS_TRUST_NETWORK"}
CONNECTIONS_KEPT_FREE = 20
ONE_POD = {("Job", "user-service-migrate"), ("CronJob", "user-service-prune")}
ACTING = {"Initial", "Recreate", "InPlaceOrRecreate", "InPlace", "Auto"}


def service_containers(documents: list[Document]) -> dict[str, Document]:
    """The container of each workload that serves, by the workload's name."""
    return {
        document["metadata"]["name"]: template["spec"]["containers"][0]
        for document in documents
        if (template := pod_template(document)) and template["spec"]["containers"][0]["name"] == "user-service"
    }


def disagreements(fallback: list[Document], knative: list[Document]) -> list[str]:
    """Where the containers of the two stacks differ in what must be the same."""
    [reference] = service_containers(fallback).values()
    found = []
    for name, container in service_containers(knative).items():
        for aspect in (
            "image",
            "args",
            "environment",
            "probes",
            "resources",
            "securityContext",
            "volumeMounts",
        ):
            ours, theirs = read_aspect(reference, aspect), read_aspect(container, aspect)
            if ours != theirs:
                found.append(f"{name}: {aspect}: {theirs} is not {ours}")
    if settings(fallback) != settings(knative):
        found.append("the ConfigMaps differ")
    return found


def settings(documents: list[Document]) -> dict[str, str]:
    [config] = [
        document
        for document in documents
        if document["kind"] == "ConfigMap" and document["metadata"]["name"].startswith("user-service-config")
    ]
    return dict(config["data"])


def read_aspect(container: Document, aspect: str) -> Any:
    if aspect == "environment":
        own = {item["name"]: item["value"] for item in container.get("env", []) if item["name"] not in ENV_OF_A_DOOR}
        return own, container["envFrom"]
    if aspect == "probes":
        # Without a period, Knative's queue-proxy probes readiness every 50 ms, so only the path is compared.
        live = {name: value for name, value in container["livenessProbe"].items() if name != "initialDelaySeconds"}
        return live, {"httpGet": container["readinessProbe"]["httpGet"]}, start_seconds(container)
    return container[aspect]


def start_seconds(container: Document) -> int:
    """The seconds that a start may take before the container is killed."""
    if "startupProbe" in container:
        return int(container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"])
    probe = container["livenessProbe"]
    return int(probe.get("initialDelaySeconds", 0) + probe["periodSeconds"] * (probe["failureThreshold"] - 1))


def connections(documents: list[Document]) -> tuple[int, int]:
    """(the most connections that the pods of a stack can open, what PostgreSQL must offer)."""
    config = next(d for d in documents if d["kind"] == "ConfigMap" and "POSTGRES_MAX_CONNECTIONS" in d["data"])
    pool = int(config["data"]["POSTGRES_MAX_CONNECTIONS"])
    offered = int(config["metadata"]["annotations"]["user-service/postgres-max-connections"])
    pods = sum(most_pods(document, documents) for document in documents)
    return pods * pool, offered


def most_pods(document: Document, documents: list[Document]) -> int:
    # Neither opens a whole pool, and the migration has ended before pods roll; each counts as one pod all the same.
    if (document["kind"], document["metadata"]["name"]) in ONE_POD:
        return 1
    if is_knative_service(document):
        return int(document["spec"]["template"]["metadata"]["annotations"]["autoscaling.knative.dev/max-scale"])
    if document["kind"] == "Deployment" and document["metadata"]["name"] == "user-service-deployment":
        surge = int(document["spec"]["strategy"]["rollingUpdate"]["maxSurge"])
        scalers = [d for d in documents if d["kind"] == "HorizontalPodAutoscaler"]
        return surge + (scalers[0]["spec"]["maxReplicas"] if scalers else document["spec"].get("replicas", 1))
    return 0


def over_budget(documents: list[Document]) -> list[str]:
    used, offered = connections(documents)
    left = offered - used
    if left >= CONNECTIONS_KEPT_FREE:
        return []
    return [f"{used} of PostgreSQL's {offered} connections can be used; {CONNECTIONS_KEPT_FREE} must stay free"]


def fights(documents: list[Document]) -> list[str]:
    """Acting VerticalPodAutoscalers on a workload whose number of pods follows the same resource."""
    scaled = {}
    for document in documents:
        if document["kind"] == "HorizontalPodAutoscaler":
            by = {metric["type"] for metric in document["spec"]["metrics"]}
            scaled[document["spec"]["scaleTargetRef"]["name"]] = by & {"Resource", "ContainerResource"}
    return [
        f"{document['metadata']['name']} acts on {target}, which an HPA scales by {sorted(scaled[target])}"
        for document in documents
        if document["kind"] == "VerticalPodAutoscaler"
        and document["spec"].get("updatePolicy", {}).get("updateMode", "Auto") in ACTING
        and scaled.get(target := document["spec"]["targetRef"]["name"])
    ]


# https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
VOLUMES_OF_RESTRICTED = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
}
VOLUMES_OF_RESTRICTED |= {"secret"}


def unrestricted(documents: list[Document]) -> list[str]:
    """Where a pod is looser than the profile `restricted` of Pod Security."""
    found = []
    for document in documents:
        template = {"spec": document["spec"]} if document["kind"] == "Pod" else pod_template(document)
        if template is None:
            continue
        pod, name = template["spec"], f"{document['kind']}/{document['metadata']['name']}"
        shared = pod.get("securityContext", {})
        found += [f"{name}: {field}" for field in ("hostNetwork", "hostPID", "hostIPC") if pod.get(field)]
        for volume in pod.get("volumes", []):
            if not volume.keys() - {"name"} <= VOLUMES_OF_RESTRICTED:
                found.append(f"{name}: the volume {volume['name']}")
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            own = shared | container.get("securityContext", {})
            fields = {
                "runAsNonRoot": own.get("runAsNonRoot") is True and own.get("runAsUser") != 0,
                "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
                "capabilities": own.get("capabilities") == {"drop": ["ALL"]},
                "seccompProfile": own.get("seccompProfile", {}).get("type") in {"RuntimeDefault", "Localhost"},
                "hostPort": not any(port.get("hostPort") for port in container.get("ports", [])),
            }
            found += [f"{name}: {container['name']}: {field}" for field, kept in fields.items() if not kept]
    return [f"{place}: Pod Security refuses it under the profile restricted" for place in found]


def shutdown_problems(documents: list[Document]) -> list[str]:
    """The sleep before SIGTERM, 1 s to drain, 10 for requests and 3 for the pools must fit the grace period."""
    pod = named(documents, "Deployment", "user-service-deployment")["spec"]["template"]["spec"]
    sleep = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed, given = sleep + 1 + 10 + 3, pod["terminationGracePeriodSeconds"]
    return [] if needed <= given else [f"stopping takes up to {needed} s, the grace period is {given} s"]
