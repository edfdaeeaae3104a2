"""A SAM template as its rules read it: tags resolved, anchors and merges expanded, loops written out."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from stepflake.lint.values import mapping

Document = Mapping[str, Any]

FUNCTION = "AWS::Serverless::Function"
STATE_MACHINE = "AWS::StepFunctions::StateMachine"

_LOOP = "Fn::ForEach::"


@dataclass(frozen=True)
class Template:
    """`path`: where the template is; what it names by a path is relative to the folder of this."""

    path: Path
    document: Document

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises OSError, and ValueError where the file is no template in YAML."""
        # SAM's own reader knows the tags (!Ref, !Sub, ...); its import takes half a second, so only here.
        from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]

        try:
            document = yaml_parse(path.read_text(encoding="utf-8"))
        except OSError:
            raise
        except Exception as error:  # whatever the parser or a tag's constructor raises
            raise ValueError(f"{path} is not YAML: {error}") from error
        if not isinstance(document, Mapping):
            raise ValueError(f"{path} is not a template: it is not an object")  # noqa: TRY004
        return cls(path, document)

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def parameters(self) -> Mapping[str, Document]:
        return mapping(self.document.get("Parameters"))

    @property
    def outputs(self) -> Mapping[str, Document]:
        return _without_loops(mapping(self.document.get("Outputs")))

    @cached_property
    def resources(self) -> Mapping[str, Document]:
        """All resources, each `Fn::ForEach` written out. What is no resource at all is cfn-lint's to say."""
        resources = _without_loops(mapping(self.document.get("Resources")))
        return {name: resource for name, resource in resources.items() if "Type" in mapping(resource)}

    def of_type(self, *types: str) -> Iterator[tuple[str, Document]]:
        """Logical id and properties of each resource of these types; a Lambda's include the Globals."""
        shared = mapping(mapping(self.document.get("Globals")).get("Function"))
        for name, resource in self.resources.items():
            if resource["Type"] in types:
                properties = mapping(resource.get("Properties"))
                yield name, {**shared, **properties} if resource["Type"] == FUNCTION else properties

    def machine_of(self, definition: Path) -> tuple[str, Document] | None:
        """Logical id and properties of the state machine that has this definition file, if one has."""
        for name, machine in self.of_type(STATE_MACHINE):
            uri = machine.get("DefinitionS3Location")
            if isinstance(uri, str) and (self.folder / uri).resolve() == definition.resolve():
                return name, machine
        return None


def _without_loops(section: Document) -> Document:
    written_out: dict[str, Any] = {}
    for name, entry in section.items():
        if not name.startswith(_LOOP):
            written_out[name] = entry
            continue
        variable, items, fragment = entry
        for item in items:
            text = json.dumps(fragment).replace(f"${{{variable}}}", item)
            # A !Sub that the loop has filled in is the name itself.
            written_out |= json.loads(re.sub(r'\{"Fn::Sub": ("[^"$]*")\}', r"\1", text))
    return written_out


def alternatives(value: Any) -> list[Any]:
    """What a value may be: both sides of each `!If`, without `AWS::NoValue`; a list's items one by one."""
    if isinstance(value, list):
        return [found for item in value for found in alternatives(item)]
    if isinstance(value, Mapping) and "Fn::If" in value:
        return alternatives(value["Fn::If"][1:])
    return [] if value is None or value == {"Ref": "AWS::NoValue"} else [value]


def target(value: Any) -> str | None:
    """The logical id that `!Ref X`, `!GetAtt X.Arn` or `!Sub ${X.Arn}/*` names first."""
    if not isinstance(value, Mapping):
        return None
    if "Ref" in value:
        return str(value["Ref"])
    if "Fn::GetAtt" in value:
        parts = value["Fn::GetAtt"]
        return str(parts[0] if isinstance(parts, list) else parts.split(".")[0])
    found = re.match(r"\$\{(\w+)", substituted(value) or "")
    return found[1] if found else None


def substituted(value: Any) -> str | None:
    """The text of a `!Sub`, its variables still in it."""
    text = value.get("Fn::Sub") if isinstance(value, Mapping) else None
    return text[0] if isinstance(text, list) else text
