"""Invocations as AWS sends them: API Gateway's HTTP APIs (2.0 and 1.0), REST APIs, and function URLs."""

import base64
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

Payload = Callable[[str, str, Mapping[str, str], bytes], dict[str, Any]]


def http_api(method: str, target: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """The default stage of an HTTP API, which decodes the path; bodies in base64, as those of binary types are."""
    event = version_2(method, target, headers, body, domain="abc123def4.execute-api.eu-west-1.amazonaws.com")
    event["rawPath"] = event["requestContext"]["http"]["path"] = unquote(event["rawPath"])
    return event


def http_api_stage(method: str, target: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """A named stage of an HTTP API, whose name is part of the path."""
    event = http_api(method, f"/prod{target}", headers, body)
    event["requestContext"]["stage"] = "prod"
    return event


def function_url(method: str, target: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    event = version_2(method, target, headers, b"", domain="abcdefghijklmnop.lambda-url.eu-west-1.on.aws")
    event["requestContext"] |= {"accountId": "anonymous", "apiId": "abcdefghijklmnop", "authentication": None}
    if body:
        event |= {"body": body.decode(), "isBase64Encoded": False}
    return event


def version_2(method: str, target: str, headers: Mapping[str, str], body: bytes, *, domain: str) -> dict[str, Any]:
    path, _, query = target.partition("?")
    event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "cookies": ["session=none", "theme=dark"],
        "headers": {
            "accept": "*/*",
            "content-length": str(len(body)),
            "host": domain,
            "user-agent": "curl/8.5.0",
            "x-amzn-trace-id": "Root=1-65a1b2c3-0123456789abcdef01234567",
            "x-forwarded-for": "203.0.113.7",
            "x-forwarded-port": "443",
            "x-forwarded-proto": "https",
            **{name.lower(): value for name, value in headers.items()},
        },
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "abc123def4",
            "domainName": domain,
            "domainPrefix": domain.partition(".")[0],
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "203.0.113.7",
                "userAgent": "curl/8.5.0",
            },
            "requestId": "JKJaXmPLvHcESHA=",
            "routeKey": "$default",
            "stage": "$default",
            "time": "12/Jan/2026:21:05:07 +0000",
            "timeEpoch": 1768251907000,
        },
        "isBase64Encoded": bool(body),
    }
    if query:
        event["queryStringParameters"] = dict(parse_qsl(query, keep_blank_values=True))
    if body:
        event["body"] = base64.b64encode(body).decode()
    return event


def http_api_1(method: str, target: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """An HTTP API with payloads of version 1.0, which decodes the path too."""
    event = rest_api(method, target, headers, body)
    event["requestContext"]["stage"] = "$default"
    return {**event, "version": "1.0", "path": unquote(event["path"])}


def rest_api(method: str, target: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    path, _, query = target.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    sent = {"Host": "abc123def4.execute-api.eu-west-1.amazonaws.com", "X-Forwarded-Proto": "https", **headers}
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": sent,
        "multiValueHeaders": {name: [value] for name, value in sent.items()},
        "queryStringParameters": dict(pairs) or None,
        "multiValueQueryStringParameters": {
            name: [value for known, value in pairs if known == name] for name, _ in pairs
        }
        or None,
        "pathParameters": {"proxy": path.lstrip("/")},
        "stageVariables": None,
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "abc123def4",
            "httpMethod": method,
            "identity": {"sourceIp": "203.0.113.7", "userAgent": "curl/8.5.0"},
            "path": f"/prod{path}",
            "protocol": "HTTP/1.1",
            "requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef",
            "resourcePath": "/{proxy+}",
            "stage": "prod",
        },
        "body": base64.b64encode(body).decode() if body else None,
        "isBase64Encoded": bool(body),
    }
