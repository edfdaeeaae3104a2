"""A deployed stack, on this machine or on AWS, and how the one on this machine is built and deployed.

The local stack is the real template, built by `sam build` and deployed by `sam deploy` into an embedded
engine. Two things make up for what the engine isn't: the functions run under AWS's own runtime client, which
a `bootstrap` in the bundle starts (so that errors have their own types, as on AWS), and beside the bundle
they see only what AWS's runtime has: boto3.
"""

import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from botocore.credentials import Credentials

from stepflake.local.engine import REGION, STATE_VARIABLE, Engine

DEFAULT_NAME = "local"

# The engine's root user.
ACCESS_KEY = "test"
SECRET_KEY = "test"  # noqa: S105

# A block during which one step is shown: `with step("Deploying"):`.
Step = Callable[[str], AbstractContextManager[None]]

# What every function finds on AWS without packing it, beside the standard library.
_RUNTIME_PACKAGES = ("awslambdaric", "boto3")

# -S: no site-packages but the runtime's, so that what a function forgot to require is missing here as well.
# The last argument tells whose process this is (see engine.py); the runtime client doesn't read it.
_BOOTSTRAP = """\
#!/bin/sh
export PYTHONPATH="$LAMBDA_TASK_ROOT:{runtime}"
exec "{python}" -S -m awslambdaric "$_HANDLER" "${state}"
"""

_KEPT_BUILDS = 5
_ARCHITECTURES = {"x86_64": "x86_64", "AMD64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}


class StackError(Exception):
    """A stack that isn't there, or can't be built or deployed; the message says what to do about it."""


class EngineDiedError(StackError):
    """The engine ended while something needed it."""


@dataclass(frozen=True)
class Stack:
    """A deployed stack. `aws_endpoint_url`: the engine's, None on AWS. `profile`: of the AWS credentials."""

    api_url: str
    aws_endpoint_url: str | None
    region: str
    stack_name: str
    outputs: Mapping[str, str]
    parameters: Mapping[str, str]
    profile: str | None = None

    @classmethod
    def describe(
        cls,
        stack_name: str,
        region: str | None = None,
        profile: str | None = None,
        *,
        endpoint: str | None = None,
    ) -> Self:
        """The stack that CloudFormation knows under this name. `endpoint`: a local engine's.

        Raises StackError.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            session = _session(endpoint, region, profile)
            if session.region_name is None:
                raise StackError("No AWS region is set: name one with --region, or set AWS_REGION.")
            client = _client("cloudformation", endpoint, region, profile)
            found = client.describe_stacks(StackName=stack_name)["Stacks"][0]
        except (BotoCoreError, ClientError) as error:
            raise StackError(f"Stack {stack_name!r} can't be described: {error}") from error
        outputs = {item["OutputKey"]: item["OutputValue"] for item in found.get("Outputs", [])}
        parameters = {item["ParameterKey"]: item["ParameterValue"] for item in found.get("Parameters", [])}
        if "ApiUrl" not in outputs:
            raise StackError(f"Stack {stack_name!r} ({found['StackStatus']}) has no output ApiUrl.")
        api_url = outputs["ApiUrl"].rstrip("/")
        if endpoint:
            # https://{api}.execute-api.{region}.amazonaws.com/{stage}, as the engine serves it.
            host, _, stage = api_url.removeprefix("https://").partition("/")
            api_url = f"{endpoint}/_aws/execute-api/{host.split('.')[0]}/{stage}"
        return cls(api_url, endpoint, session.region_name, stack_name, outputs, parameters, profile)

    @classmethod
    def local(cls, name: str = DEFAULT_NAME, root: Path | None = None) -> Self:
        """The local stack of this name, of the checkout `root`. Raises StackError where it doesn't run."""
        root = root or project_root()
        engine = Engine.find(state_directory(root, name))
        if engine is None:
            option = "" if name == DEFAULT_NAME else f" --name {name}"
            raise StackError(
                f"The local stack {name!r} is not running; start it with: stepflake up --detach{option}"
            )
        return cls.describe(_local_config(root)["stack_name"], REGION, endpoint=engine.url)

    @property
    def credentials(self) -> Credentials:
        """To sign requests with. Raises StackError where there are none."""
        session = _session(self.aws_endpoint_url, self.region, self.profile)
        found: Credentials | None = session.get_credentials()
        if found is None:
            raise StackError("No AWS credentials are found; set AWS_PROFILE or name a --profile.")
        return found

    def client(self, service: str) -> Any:
        """A boto3 client of the account that the stack is in; one for each service, made once."""
        return _client(service, self.aws_endpoint_url, self.region, self.profile)


@functools.cache
def _session(endpoint: str | None, region: str | None, profile: str | None) -> Any:
    import boto3

    if endpoint:
        return boto3.Session(ACCESS_KEY, SECRET_KEY, region_name=region)
    return boto3.Session(region_name=region, profile_name=profile)


@functools.cache
def _client(service: str, endpoint: str | None, region: str | None, profile: str | None) -> Any:
    from botocore.config import Config

    # Hosts such as sync-states.127.0.0.1 don't exist.
    config = Config(inject_host_prefix=endpoint is None)
    return _session(endpoint, region, profile).client(service, endpoint_url=endpoint, config=config)


# Where things are


def project_root() -> Path:
    """The checkout that is meant: around the current directory, else the one this was installed from."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "template.yaml").exists() and (folder / "samconfig.toml").exists():
            return folder
    return Path(__file__).parents[2]


def state_directory(root: Path, name: str) -> Path:
    """Where the local stack of this name keeps its state. Raises StackError for a name that can't be one."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", name):
        raise StackError(f"{name!r} can't name a local stack: use up to 40 of a-z, 0-9 and -, no - first.")
    return root.resolve() / ".stepflake" / name


def local_names(root: Path) -> list[str]:
    """The names of the local stacks that have state in this checkout, whether they run or not."""
    return sorted(path.name for path in root.glob(".stepflake/[!.]*/"))


def _cache_directory(root: Path) -> Path:
    return root.resolve() / ".stepflake" / ".cache"


def _lock_file(root: Path, name: str) -> Path:
    return _cache_directory(root) / "locks" / name


def _local_config(root: Path) -> dict[str, Any]:
    config = tomllib.loads((root / "samconfig.toml").read_text())
    settings: dict[str, Any] = config["local"]["deploy"]["parameters"]
    return settings


@contextmanager
def _exclusive(path: Path, *, busy: str | None = None) -> Iterator[None]:
    """Holds the lock file `path`. Where another process does: waits, or raises StackError(busy)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise StackError(busy) from None
        yield


# Up and down


@dataclass(frozen=True)
class LocalStack:
    """What `up` brought up. `started`: whether its engine was started by this call, or ran already."""

    stack: Stack
    engine: Engine
    started: bool


def up(
    root: Path,
    name: str = DEFAULT_NAME,
    *,
    step: Step,
    port: int | None = None,
    parameters: Mapping[str, str] | None = None,
) -> LocalStack:
    """Brings the local stack up: an engine, unless it runs, and the checkout's current code deployed into it.

    `parameters`: of the template, beside samconfig.toml's [local]. Raises StackError or EngineError, and
    then has stopped the engine if it started it.
    """
    _check_catalog(root)
    state = state_directory(root, name)
    state.mkdir(parents=True, exist_ok=True)
    busy = f"Another `stepflake up` of the stack {name!r} is at work; wait for its end."
    with _exclusive(_lock_file(root, name), busy=busy):
        engine = Engine.find(state)
        if engine and port not in (None, engine.port):
            raise StackError(
                f"The stack {name!r} runs on port {engine.port}; `stepflake down` first to move it."
            )
        started = engine is None
        with step("Building the Lambdas"):
            build = _build(root)
        if engine is None:
            with step("Starting the engine"):
                engine = Engine.start(state, port=port)
        try:
            stack = _deploy(root, build, engine, parameters or {}, step)
        except BaseException:
            if started:
                engine.stop()
            raise
    return LocalStack(stack, engine, started)


def down(root: Path, name: str = DEFAULT_NAME) -> bool:
    """Stops the local stack and removes its state. False where there was nothing to stop."""
    state = state_directory(root, name)
    if not state.exists():
        return False
    was_running = _stop(state)  # also under an `up` at work, which then ends
    with _exclusive(_lock_file(root, name)):
        was_running = _stop(state) or was_running
        shutil.rmtree(state)
    return was_running


def _stop(state: Path) -> bool:
    engine = Engine.find(state)
    if engine is None:
        return False
    (state / "engine.json").unlink(missing_ok=True)  # tells an attached `up` that this end was asked for
    engine.stop()
    return True


def _check_catalog(root: Path) -> None:
    """Raises StackError for a remote function that isn't one: deployed, it would fail every request."""
    from core.catalog import CatalogError, read_catalog

    try:
        read_catalog(root / "lambdas" / "functions", diagnostics=True)
    except CatalogError as error:
        raise StackError(str(error)) from error


# Building


@dataclass(frozen=True)
class Build:
    """What `sam build` made of the checkout. `digest`: of all that went into it."""

    template: Path
    digest: str


def _build(root: Path) -> Build:
    """Builds the bundles, unless this code was built before; then it takes no time and no network."""
    cache = _cache_directory(root)
    with _exclusive(cache / "build.lock"):
        bootstrap = _BOOTSTRAP.format(
            runtime=_link_runtime(cache), python=_base_python(), state=STATE_VARIABLE
        )
        digest = _source_digest(root, bootstrap)
        target = cache / "builds" / digest
        if not target.exists():
            _check_template(root / "template.yaml", cache)
            partial = cache / "builds" / "partial"
            shutil.rmtree(partial, ignore_errors=True)
            _sam_build(root, cache, partial)
            _pack(partial, bootstrap)
            partial.rename(target)
        target.touch()
        builds = sorted((cache / "builds").glob("*/"), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in builds[_KEPT_BUILDS:]:
            shutil.rmtree(old)
    return Build(target / "template.json", digest)


def _base_python() -> Path:
    """The Python that the environment was made from: without the environment's packages."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def _link_runtime(cache: Path) -> Path:
    """A directory with what AWS's runtime provides, out of this environment's packages."""
    links: dict[str, Path] = {}
    for package in _requirements_of(_RUNTIME_PACKAGES):
        distribution = importlib.metadata.distribution(package)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            links[top] = Path(str(distribution.locate_file(top))).resolve()
    digest = hashlib.sha256(repr(sorted(links.items())).encode()).hexdigest()[:16]
    folder = cache / "runtime" / digest
    if not folder.exists():  # one that Lambdas run from is never changed
        partial = cache / "runtime" / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for top, target in links.items():
            (partial / top).symlink_to(target)
        partial.rename(folder)
    return folder


def _requirements_of(packages: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    waiting = list(packages)
    while waiting:
        package = waiting.pop()
        if package in found:
            continue
        try:
            requires = importlib.metadata.requires(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # required on other platforms
        found.append(package)
        names = (re.match(r"[\w.-]+", line) for line in requires if "extra ==" not in line)
        waiting += [re.sub(r"[-_.]+", "-", name[0]).lower() for name in names if name]
    return sorted(found)


def _source_digest(root: Path, bootstrap: str) -> str:
    digest = hashlib.sha256(f"{sys.version}{platform.machine()}{root.resolve()}{bootstrap}".encode())
    files = [root / "template.yaml", *(root / "lambdas").rglob("*"), *(root / "statemachines").rglob("*")]
    for path in sorted(files, key=str):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"\0{path.relative_to(root)}\0{path.stat().st_mode}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _check_template(template: Path, cache: Path) -> None:
    """Raises StackError for what CloudFormation would refuse and the engine doesn't, as a dangling !Ref."""
    checked = cache / "checked-template"
    if checked.exists() and checked.read_bytes() == template.read_bytes():
        return
    result = subprocess.run(  # noqa: S603
        [
            str(Path(sys.executable).parent / "cfn-lint"),
            "--non-zero-exit-code=error",
            "--format=json",
            "--",
            str(template),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=template.parent,  # has its settings
    )
    if result.returncode:
        try:
            matches = json.loads(result.stdout)
        except ValueError:
            raise StackError(f"cfn-lint failed:\n{result.stderr}{result.stdout}") from None
        lines = [f"{template} is not a template that CloudFormation takes:"]
        for match in matches:
            if match["Level"] == "Error":
                place = ".".join(str(part) for part in match["Location"]["Path"] or [])
                line = match["Location"]["Start"]["LineNumber"]
                message = textwrap.shorten(match["Message"], 300)
                lines.append(f"  line {line}, {place}: {message} ({match['Rule']['Id']})")
        raise StackError("\n".join(lines))
    checked.write_bytes(template.read_bytes())


def _sam_build(root: Path, cache: Path, target: Path) -> None:
    if platform.machine() not in _ARCHITECTURES:
        raise StackError(f"Lambda has no architecture like this machine's ({platform.machine()}).")
    parameters = {
        "Runtime": f"python{sys.version_info.major}.{sys.version_info.minor}",
        "Architecture": _ARCHITECTURES[platform.machine()],
    }
    output = _run_sam(
        cache,
        [
            "build",
            "--cached",
            f"--cache-dir={cache / 'sam-cache'}",
            f"--build-dir={target}",
            f"--template-file={root.resolve() / 'template.yaml'}",
            "--parameter-overrides",
            *(f"{key}={value}" for key, value in parameters.items()),
        ],
    )
    if not (target / "template.yaml").exists():
        raise StackError(f"sam build wrote no template.\n{output}")


def _pack(build: Path, bootstrap: str) -> None:
    """Zips each function's directory, equal ones once, and lets the built template name the zips.

    `sam build` leaves a copy of the bundle for each function, and `sam deploy` would zip each of them.
    """
    import yaml  # type: ignore[import-untyped]

    # The C loader, and JSON, which sam reads before it tries YAML: both many times quicker.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    template = yaml.load((build / "template.yaml").read_text(), loader)  # noqa: S506 - it is a safe loader
    for resource in template["Resources"].values():
        # A list is an Fn::ForEach, of which no function is made.
        code = resource.get("Properties", {}).get("CodeUri") if isinstance(resource, dict) else None
        if isinstance(code, str) and (build / code).is_dir():
            resource["Properties"]["CodeUri"] = _zip(build / code, bootstrap, build)
    (build / "template.json").write_text(json.dumps(template, default=str))
    for folder in build.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)


def _zip(folder: Path, bootstrap: str, target: Path) -> str:
    """Packs a function's directory and the bootstrap; returns the zip's name, which equal contents share."""
    files = {"bootstrap": (0o755, bootstrap.encode())}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            files[str(path.relative_to(folder))] = (path.stat().st_mode & 0o777, path.read_bytes())
    digest = hashlib.sha256()
    for name, (mode, content) in files.items():
        digest.update(f"\0{name}\0{mode}\0{len(content)}\0".encode() + content)
    archive = target / f"{digest.hexdigest()[:16]}.zip"
    if not archive.exists():
        with zipfile.ZipFile(archive, "w") as bundle:
            for name, (mode, content) in files.items():
                entry = zipfile.ZipInfo(name)  # with a fixed date: equal files make equal zips
                entry.external_attr = mode << 16
                bundle.writestr(entry, content, zipfile.ZIP_DEFLATED, compresslevel=1)
    return archive.name


# Deploying


def _deploy(root: Path, build: Build, engine: Engine, parameters: Mapping[str, str], step: Step) -> Stack:
    config = _local_config(root)
    name = config["stack_name"]
    values = dict(item.split("=", 1) for item in config.get("parameter_overrides", []))
    values["Architecture"] = _ARCHITECTURES[platform.machine()]
    values |= parameters
    record = engine.state / "deployed.json"
    wanted = {"engine": engine.pid, "build": build.digest, "parameters": values}
    if record.exists() and json.loads(record.read_text()) == wanted:
        with step("Already deployed: neither code nor parameters have changed"):
            return Stack.describe(name, REGION, endpoint=engine.url)
    record.unlink(missing_ok=True)
    arguments = [
        "deploy",
        f"--template-file={build.template}",
        f"--config-file={(root / 'samconfig.toml').resolve()}",
        "--config-env=local",
        "--parameter-overrides",
        *(f"{key}={value}" for key, value in values.items()),
    ]
    with step("Deploying"):
        try:
            _run_sam(_cache_directory(root), arguments, engine)
        except EngineDiedError:
            raise
        except StackError as error:
            failures = _failures(name, engine)
            if not failures:
                raise
            log = engine.state / "sam-deploy.log"
            raise StackError("\n".join(["The deployment failed:", *failures, f"All of it: {log}"])) from error
        stack = Stack.describe(name, REGION, endpoint=engine.url)
    record.write_text(json.dumps(wanted))
    return stack


def _failures(name: str, engine: Engine) -> list[str]:
    """CloudFormation's reasons why the last deployment failed: one line for each resource that did."""
    from botocore.exceptions import BotoCoreError, ClientError

    client = _client("cloudformation", engine.url, REGION, None)
    try:
        events = client.describe_stack_events(StackName=name)["StackEvents"]
    except (BotoCoreError, ClientError):
        return []  # it didn't come to a stack: what sam says is all there is
    failures: list[str] = []
    for event in events:  # the newest first
        status, resource = event["ResourceStatus"], event["LogicalResourceId"]
        if resource == name and status in ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS"):
            break
        if status.endswith("_FAILED"):
            failures.insert(0, f"  {resource}: {event.get('ResourceStatusReason', '')}")
    return failures


def _run_sam(cache: Path, arguments: list[str], engine: Engine | None = None) -> str:
    """Runs one `sam` command and returns what it printed. Raises StackError, with that, where it fails."""
    settings = cache / "sam"
    settings.mkdir(parents=True, exist_ok=True)
    # sam asks its registry for newer versions unless it did lately.
    (settings / "metadata.json").write_text(
        json.dumps({"telemetryEnabled": False, "lastVersionCheck": time.time()})
    )
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "PYTHON"))}
    variables |= {
        # It builds with the Python that it finds there.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "SAM_CLI_TELEMETRY": "0",
        "SAM_CLI_POLL_DELAY": "0.2",
        "__SAM_CLI_APP_DIR": str(settings),
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    if engine:
        variables["AWS_ENDPOINT_URL"] = engine.url
        variables["NO_PROXY"] = variables["no_proxy"] = "127.0.0.1,localhost"
    log = (engine.state if engine else cache) / f"sam-{arguments[0]}.log"
    with log.open("w") as output:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "samcli", *arguments],
            cwd=cache,  # it keeps what it downloaded in .aws-sam there
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # so that Ctrl-C ends it here, with all that it started
        )
        try:
            while True:
                try:
                    process.wait(0.2)
                    break
                except subprocess.TimeoutExpired:
                    if engine and not engine.is_alive():
                        raise EngineDiedError(
                            f"The engine ended during sam {arguments[0]}.\n{engine.log_tail()}"
                        ) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    text = log.read_text(errors="replace")
    if process.returncode:
        if engine and not engine.is_alive():
            raise EngineDiedError(f"The engine ended during sam {arguments[0]}.\n{engine.log_tail()}")
        raise StackError(f"sam {arguments[0]} failed; all of its output: {log}\n{_error_of(text)}")
    return text


def _error_of(text: str) -> str:
    """The part of sam's output that says what went wrong: from its last `Error:` on, else its last lines."""
    lines = [line for line in text.splitlines() if line.strip()]
    starts = [
        index for index, line in enumerate(lines) if line.startswith(("Error:", "Build Failed", "Traceback"))
    ]
    return "\n".join(lines[starts[-1] :] if starts else lines[-10:])
