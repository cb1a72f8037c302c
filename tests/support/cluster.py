"""What the end-to-end tests do with a cluster: kubectl, and programs that run in pods of their own as callers do."""

import json
import os
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

from support import waiting

NAMESPACE = "microservices"
CALLERS = "user-service-e2e"
# Each look at a cluster starts a program.
wait_until = partial(waiting.wait_until, pause_seconds=1)
PROGRAM = Path(__file__).with_name("cluster_caller.py")


class Cluster:
    """The cluster of KUBECONFIG with the service deployed on it."""

    def __init__(self) -> None:
        versions = self.kubectl("api-versions", namespace=None).split()
        self.knative = os.environ.get("STACK", "knative" if "serving.knative.dev/v1" in versions else "") == "knative"
        port = "" if self.knative else ":3002"
        self.address = f"http://user-service.{NAMESPACE}.svc.cluster.local{port}"
        self.broker = f"http://broker-ingress.knative-eventing.svc.cluster.local/{NAMESPACE}/user-service"
        self.image = self.image_of_the_service()
        self.calls = 0

    def kubectl(self, *arguments: str, stdin: str | None = None, namespace: str | None = NAMESPACE) -> str:
        scope = ["--namespace", namespace] if namespace else []
        command = ["kubectl", *scope, *arguments]
        result = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        if result.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {result.stderr.strip()[-1000:]}")
        return result.stdout

    def get(self, *arguments: str, namespace: str | None = NAMESPACE) -> Any:
        return json.loads(self.kubectl("get", *arguments, "--output", "json", namespace=namespace))

    def image_of_the_service(self) -> str:
        kind = "services.serving.knative.dev/user-service" if self.knative else "deployment/user-service-deployment"
        return str(self.get(kind)["spec"]["template"]["spec"]["containers"][0]["image"])

    def pods(self) -> list[dict[str, Any]]:
        """The service's pods that are not on their way out."""
        selector = "serving.knative.dev/service=user-service" if self.knative else "app=user-service"
        items = self.get("pods", "--selector", selector)["items"]
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]

    def prepare_callers(self) -> None:
        """A namespace for callers, outside the default deny, with the API key and the caller's program in it."""
        key = self.get("secret", "microservices-secrets")["data"]["INTERNAL_API_KEY"]
        objects: list[dict[str, Any]] = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": CALLERS}},
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key"}, "data": {"INTERNAL_API_KEY": key}},
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "program"},
                "data": {"caller.py": PROGRAM.read_text()},
            },
        ]
        for one in objects:
            self.kubectl(
                "apply", "--filename", "-", stdin=json.dumps(one), namespace=CALLERS if "data" in one else None
            )

    def start_caller(self, task: dict[str, Any], *, allowed: bool = True) -> str:
        """The name of a new pod that does the task; `allowed` gives it the label that the network policy asks for."""
        self.calls += 1
        name = f"caller-{os.getpid()}-{self.calls}"
        container = {
            "name": "caller",
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["/opt/user-service/bin/python", "/program/caller.py", json.dumps(task)],
            "envFrom": [{"secretRef": {"name": "key"}}],
            "volumeMounts": [{"name": "program", "mountPath": "/program"}],
        }
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"user-service-client": "true"} if allowed else {}},
            "spec": {
                "restartPolicy": "Never",
                "containers": [container],
                "volumes": [{"name": "program", "configMap": {"name": "program"}}],
            },
        }
        self.kubectl("apply", "--filename", "-", stdin=json.dumps(pod), namespace=CALLERS)
        return name

    def wait_for_result(self, caller: str, *, seconds: float = 180) -> Any:
        """What the caller printed, once it has ended."""

        def ended() -> bool:
            return self.get("pod", caller, namespace=CALLERS)["status"]["phase"] in {"Succeeded", "Failed"}

        wait_until(ended, f"the end of {caller}", seconds=seconds)
        return json.loads(self.kubectl("logs", caller, namespace=CALLERS))

    def call(self, *requests: dict[str, Any], allowed: bool = True) -> list[dict[str, Any]]:
        """The answers to requests (method, path or url, body, headers) of one caller, in order."""
        task = {"requests": [{"url": self.address + request.pop("path", ""), **request} for request in requests]}
        responses = self.wait_for_result(self.start_caller(task, allowed=allowed))
        assert isinstance(responses, list)
        return responses
