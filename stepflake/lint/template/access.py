"""What is open to the outside: the API, and the parameters of the template."""

import re
from collections.abc import Iterator

from stepflake.lint.finding import Finding
from stepflake.lint.template.document import FUNCTION, Template
from stepflake.lint.values import mapping

# What callers and errors put into an access log as it is: a quote in it breaks the line's JSON.
# https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-variables-for-access-logging.html
_UNQUOTED = re.compile(
    r"\$context\.(path|requestId|error\.message|identity\.(userAgent|user|caller)|\w*[eE]rrorMessage)\b(?!String)"
)


def apis_require_signatures(template: Template) -> Iterator[Finding]:
    for name, api in template.of_type("AWS::Serverless::Api"):
        settings = api.get("MethodSettings", [])
        if mapping(api.get("Auth")).get("DefaultAuthorizer") != "AWS_IAM":
            remedy = "set Auth.DefaultAuthorizer to AWS_IAM"
            yield Finding(name, "accepts requests that nobody signed", remedy)
        if not api.get("TracingEnabled"):
            yield Finding(name, "isn't traced", "set TracingEnabled")
        if "AccessLogSetting" not in api:
            yield Finding(name, "keeps no access log", "give it an AccessLogSetting")
        for unquoted in _UNQUOTED.finditer(mapping(api.get("AccessLogSetting")).get("Format", "")):
            yield Finding(name, f"a quote in {unquoted[0]} breaks a line of the access log", "leave it out")
        if "OpenApiVersion" not in api:
            yield Finding(name, "SAM gives it a stage that isn't throttled", "set OpenApiVersion to 3.0.1")
        if not any("ThrottlingRateLimit" in found for found in settings):
            yield Finding(name, "isn't throttled", "give its MethodSettings a ThrottlingRateLimit")
        if any("DataTraceEnabled" in found for found in settings):
            yield Finding(name, "logs rows", "remove DataTraceEnabled")
    for name, function in template.of_type(FUNCTION):
        for event, source in mapping(function.get("Events")).items():
            if "Auth" in mapping(source.get("Properties")) or source["Type"] == "HttpApi":
                yield Finding(f"{name}.{event}", "has an authorizer of its own", "leave it to the API")
        if "FunctionUrlConfig" in function:
            yield Finding(name, "can be called without the API", "remove FunctionUrlConfig")


def parameters_are_described(template: Template) -> Iterator[Finding]:
    for name, parameter in template.parameters.items():
        for need in ("Description", "Default"):
            if need not in parameter:
                yield Finding(name, f"has no {need}", "give it one")
