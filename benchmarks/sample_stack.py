"""Deploys the pattern that people copy today (benchmarks/sample) on the same engine as the stack."""

import io
import platform
import urllib.request
import zipfile
from pathlib import Path

from stepflake.stack import Stack

SAMPLE = Path(__file__).parent / "sample"
NAME = "sample"


def deploy_sample(stack: Stack) -> str:
    """Deploys the sample, and returns its API's base URL. Raises botocore's errors."""
    cloudformation = stack.client("cloudformation")
    bucket, key = stack.outputs["Bucket"], "benchmarks/sample.zip"
    stack.client("s3").put_object(Bucket=bucket, Key=key, Body=_zip(_bootstrap(stack)))
    architecture = "arm64" if platform.machine() in ("arm64", "aarch64") else "x86_64"
    parameters = {"CodeBucket": bucket, "CodeKey": key, "Architecture": architecture}
    cloudformation.create_stack(
        StackName=NAME,
        TemplateBody=(SAMPLE / "template.yaml").read_text(encoding="utf-8"),
        Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
    )
    cloudformation.get_waiter("stack_create_complete").wait(StackName=NAME, WaiterConfig={"Delay": 1})
    outputs = cloudformation.describe_stacks(StackName=NAME)["Stacks"][0]["Outputs"]
    return f"{stack.aws_endpoint_url}/_aws/execute-api/{outputs[0]['OutputValue']}/prod"


def _bootstrap(stack: Stack) -> bytes:
    """The file that runs AWS's runtime client on this machine, from a bundle that `stepflake up` made."""
    functions = stack.client("lambda")
    name = functions.list_functions()["Functions"][0]["FunctionName"]
    location = functions.get_function(FunctionName=name)["Code"]["Location"]
    with urllib.request.urlopen(location) as response:
        return zipfile.ZipFile(io.BytesIO(response.read())).read("bootstrap")


def _zip(bootstrap: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as bundle:
        for name, content in {"app.py": (SAMPLE / "app.py").read_bytes(), "bootstrap": bootstrap}.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o755 << 16
            bundle.writestr(entry, content)
    return archive.getvalue()
