"""The checkout built for the embedded engine: what `sam build` makes, zipped with a bootstrap.

Two things make the engine run Lambdas as AWS does. The functions run under AWS's own runtime client, which
the bootstrap starts, so that errors have their own types. And they can import only the bundle and what AWS's
runtime has: boto3.
"""

import hashlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
import textwrap
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from stepflake.local.checkout import cache_directory, exclusive
from stepflake.local.engine import STATE_VARIABLE
from stepflake.local.sam import run_sam
from stepflake.stack import StackError

# What every function can import on AWS besides the bundle and the standard library.
_RUNTIME_PACKAGES = ("awslambdaric", "boto3")

# -S: no site-packages but the runtime's, so that a missing requirement is missing here as well.
# The last argument names the engine that the process belongs to (see engine.py); awslambdaric ignores it.
_BOOTSTRAP = """\
#!/bin/sh
export PYTHONPATH="$LAMBDA_TASK_ROOT:{runtime}"
exec "{python}" -S -m awslambdaric "$_HANDLER" "${state}"
"""

_KEPT_BUILDS = 5
ARCHITECTURES = {"x86_64": "x86_64", "AMD64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True)
class Build:
    """What `sam build` made of the checkout. `digest`: of all that went into it."""

    template: Path
    digest: str


def build(root: Path) -> Build:
    """Builds the bundles, unless the same code was built before: that needs no time and no network."""
    cache = cache_directory(root)
    with exclusive(cache / "build.lock"):
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
    if not folder.exists():  # Lambdas may run from it: it is never changed
        partial = cache / "runtime" / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for top, target in links.items():
            (partial / top).symlink_to(target)
        partial.rename(folder)
    return folder


def _requirements_of(packages: tuple[str, ...]) -> list[str]:
    """The packages, and all that they require on this machine."""
    required: set[str] = set()
    waiting = list(packages)
    while waiting:
        package = waiting.pop()
        if package in required:
            continue
        required.add(package)
        for requirement in map(Requirement, importlib.metadata.requires(package) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    return sorted(required)


def _source_digest(root: Path, bootstrap: str) -> str:
    digest = hashlib.sha256(f"{sys.version}{platform.machine()}{root.resolve()}{bootstrap}".encode())
    files = [root / "template.yaml", *(root / "lambdas").rglob("*"), *(root / "statemachines").rglob("*")]
    for path in sorted(files, key=str):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"\0{path.relative_to(root)}\0{path.stat().st_mode}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _check_template(template: Path, cache: Path) -> None:
    """Raises StackError for what CloudFormation refuses and the engine accepts, such as a dangling !Ref."""
    checked = cache / "checked-template"
    if checked.exists() and checked.read_bytes() == template.read_bytes():
        return
    linter = str(Path(sys.executable).parent / "cfn-lint")
    result = subprocess.run(  # noqa: S603
        [linter, "--non-zero-exit-code=error", "--format=json", "--", str(template)],
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
        errors = [_describe_match(match) for match in matches if match["Level"] == "Error"]
        raise StackError("\n".join([f"{template} is not a template that CloudFormation takes:", *errors]))
    checked.write_bytes(template.read_bytes())


def _describe_match(match: dict[str, Any]) -> str:
    """One error of cfn-lint, on one line."""
    place = ".".join(str(part) for part in match["Location"]["Path"] or [])
    line = match["Location"]["Start"]["LineNumber"]
    message = textwrap.shorten(match["Message"], 300)
    return f"  line {line}, {place}: {message} ({match['Rule']['Id']})"


def _sam_build(root: Path, cache: Path, target: Path) -> None:
    if platform.machine() not in ARCHITECTURES:
        raise StackError(f"Lambda has no architecture like this machine's ({platform.machine()}).")
    parameters = {
        "Runtime": f"python{sys.version_info.major}.{sys.version_info.minor}",
        "Architecture": ARCHITECTURES[platform.machine()],
    }
    output = run_sam(
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
    """Zips each function's directory, equal ones once, and names the zips in the built template.

    `sam build` leaves a copy of the bundle for each function, and `sam deploy` would zip each of them.
    """
    import yaml  # type: ignore[import-untyped]

    # The C loader, and JSON, which sam tries before YAML: both are many times faster.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    template = yaml.load((build / "template.yaml").read_text(), loader)  # noqa: S506 - it is a safe loader
    for resource in template["Resources"].values():
        # A list is an Fn::ForEach; the template makes no function with one.
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
