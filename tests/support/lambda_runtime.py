"""What AWS Lambda does with a handler: one event after the other, in one process. Reads and writes JSON lines."""

import json
import sys
from types import SimpleNamespace

from user_service.entrypoints import aws_lambda

context = SimpleNamespace(
    function_name="user-service",
    aws_request_id="c6af9ac6-7b61-11e6-9a41-93e8deadbeef",
    invoked_function_arn="arn:aws:lambda:eu-west-1:123456789012:function:user-service",
    memory_limit_in_mb=512,
)
for line in sys.stdin:
    response = aws_lambda.handler(json.loads(line), context)
    sys.stdout.write(json.dumps(response) + "\n")
    sys.stdout.flush()
for environment in aws_lambda.environments:
    environment.close()
