"""Our messages for the model config against TensorFlow Serving's own: every field and enum value."""

from __future__ import annotations

from typing import Any

from google.protobuf import any_pb2, text_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from tensorflow_serving.config import model_server_config_pb2

from trainer.cluster import wire

EVERY_FIELD = """
model_config_list {
  config {
    name: "a" base_path: "/models/a" model_type: TENSORFLOW model_platform: "tensorflow"
    model_version_policy { specific { versions: [3, 5] } }
    version_labels { key: "stable" value: 3 } version_labels { key: "canary" value: 5 }
    logging_config {
      log_collector_config { type: "t" filename_prefix: "/log" }
      sampling_config {
        sampling_rate: 0.5 attributes: 2
        per_task_sampling_configs { dc: "d" task_index: 0 sampling_rate: 0.25 }
      }
      custom_logging_config { type_url: "example.com/x" value: "y" }
    }
  }
  config { name: "b" model_version_policy { all {} } }
  config { name: "c" model_version_policy { latest { num_versions: 2 } } }
}
"""


def described(message: type[Message]) -> dict[str, object]:
    """Return the fields of every message, and the values of every enum, that a message may hold, by name."""
    found: dict[str, object] = {}
    waiting: list[Any] = [message.DESCRIPTOR]
    while waiting:
        one = waiting.pop()
        name = short_name(one)
        if name in found or name == any_pb2.Any.DESCRIPTOR.full_name:
            continue
        if isinstance(one, EnumDescriptor):
            found[name] = {value.name: value.number for value in one.values}
            continue
        found[name] = {field.name: describe_field(field) for field in one.fields}
        waiting += one.enum_types
        waiting += [held for field in one.fields if (held := field.message_type or field.enum_type)]
    return found


def describe_field(field: FieldDescriptor) -> tuple[object, ...]:
    held = field.message_type or field.enum_type
    oneof = field.containing_oneof.name if field.containing_oneof else None
    return field.number, field.type, field.is_repeated, short_name(held) if held else None, oneof


def short_name(descriptor: Descriptor | EnumDescriptor) -> str:
    name = descriptor.full_name.removeprefix(descriptor.file.package + ".")
    return name.removeprefix("FileSystemStoragePathSourceConfig.")


def test_each_field_has_their_number_type_and_label() -> None:
    ours = described(wire.ModelServerConfig)
    assert {"ModelConfig", "ServableVersionPolicy.Specific", "SamplingConfig.Attributes"} <= ours.keys()
    assert ours == described(model_server_config_pb2.ModelServerConfig)


def test_a_text_with_every_field_means_the_same_to_both() -> None:
    ours = text_format.Parse(EVERY_FIELD, wire.ModelServerConfig())
    theirs = text_format.Parse(EVERY_FIELD, model_server_config_pb2.ModelServerConfig())
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)
    assert text_format.MessageToString(ours) == text_format.MessageToString(theirs)
