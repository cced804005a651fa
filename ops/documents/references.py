"""Reads references in a set of CloudFormation templates as a person would: by the names of what they refer to."""

import re
from collections.abc import Mapping
from typing import Any

_NAMES = {
    "AWS::EC2::Instance": "the database's instance",
    "AWS::KMS::Key": "the data key",
}
_NAME_PROPERTIES = (
    "FunctionName",
    "QueueName",
    "BucketName",
    "DeliveryStreamName",
    "LogGroupName",
    "TopicName",
    "RuleName",
    "Name",
)
_SUBSTITUTED = re.compile(r"\$\{([A-Za-z:]+)\}")
_UPLOADED = re.compile(r"\b[0-9a-f]{64}\b")
"""The name of an asset: a hash that changes with every line of it."""
_PSEUDO = {
    "AWS::AccountId": "ACCOUNT",
    "AWS::Region": "REGION",
    "AWS::Partition": "aws",
    "AWS::URLSuffix": "amazonaws.com",
}


class References:
    """The templates of one environment by layer; resolves references within and between them."""

    def __init__(self, templates: Mapping[str, Mapping[str, Any]]) -> None:
        self._templates = templates
        self._exports = {
            self.text(output["Export"]["Name"], layer): (output["Value"], layer)
            for layer, template in templates.items()
            for output in template.get("Outputs", {}).values()
            if "Export" in output
        }

    def text(self, value: Any, layer: str) -> str:
        """A property's value of the template `layer`, with references replaced by names."""
        return _UPLOADED.sub("(uploaded)", self._text(value, layer))

    def _text(self, value: Any, layer: str) -> str:
        match value:
            case {"Fn::Join": [separator, parts]}:
                return str(separator).join(self.text(part, layer) for part in parts)
            case {"Fn::Sub": str(pattern)}:
                return _SUBSTITUTED.sub(lambda found: _PSEUDO.get(found[1], found[0]), pattern)
            case {"Ref": name} | {"Fn::GetAtt": [name, *_]}:
                return _PSEUDO.get(name) or self._named(name, layer)
            case {"Fn::ImportValue": export}:
                exported, there = self._exports[self.text(export, layer)]
                return self.text(exported, there)
            case {"Fn::Select": [index, {"Fn::Split": [separator, whole]}]}:
                return f"part {index} of {self.text(whole, layer)}"
        return str(value)

    def _named(self, logical_id: str, layer: str) -> str:
        template = self._templates[layer]
        resource = template["Resources"].get(logical_id)
        if resource is None:  # a parameter
            return logical_id
        if resource["Type"] in _NAMES:
            return _NAMES[resource["Type"]]
        properties = resource.get("Properties", {})
        for name in _NAME_PROPERTIES:
            if name in properties:
                return self.text(properties[name], layer)
        return logical_id
