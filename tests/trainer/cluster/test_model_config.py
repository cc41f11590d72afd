import pytest
from google.protobuf import text_format

from trainer.cluster import model_config
from trainer.cluster.wire import ModelServerConfig
from trainer.errors import ConfigError

TEXT = """# What the server reads.
# Labels are moved by promote.
model_config_list {
  config {
    name: "clothing"
    base_path: "/models/clothing"
    model_platform: "tensorflow"
    model_version_policy { all {} }
    version_labels { key: "stable" value: 3 }
  }
  config { name: "other" base_path: "/models/other" version_labels { key: "stable" value: 1 } }
}
"""


def labels(text: str, name: str = "clothing") -> dict[str, int]:
    return model_config.labels(text, name, "file")


def test_promote_moves_a_label_keeps_its_former_version_and_leaves_the_rest() -> None:
    text = model_config.promote(TEXT, "clothing", "stable", 5, "file")
    assert labels(text) == {"stable": 5, "stable-previous": 3}
    assert labels(text, "other") == {"stable": 1}
    before, after = (text_format.Parse(one, ModelServerConfig()) for one in (TEXT, text))
    for config in (before, after):
        config.model_config_list.config[0].version_labels.clear()
    assert before == after
    assert text.startswith("# What the server reads.\n# Labels are moved by promote.\nmodel_config_list {")


def test_promoting_the_same_version_twice_keeps_the_former_version() -> None:
    text = TEXT
    for _ in range(2):
        text = model_config.promote(text, "clothing", "stable", 5, "file")
    assert labels(text) == {"stable": 5, "stable-previous": 3}


def test_a_new_label_cannot_be_rolled_back() -> None:
    text = model_config.promote(TEXT, "clothing", "canary", 4, "file")
    assert labels(text) == {"stable": 3, "canary": 4}
    with pytest.raises(ConfigError, match=r"--label.*'canary'.*stable: 3"):
        model_config.roll_back(text, "clothing", "canary", "file")


def test_a_second_rollback_undoes_the_first() -> None:
    text = model_config.promote(TEXT, "clothing", "stable", 5, "file")
    text, version = model_config.roll_back(text, "clothing", "stable", "file")
    assert version == 3
    assert labels(text) == {"stable": 3, "stable-previous": 5}
    _, version = model_config.roll_back(text, "clothing", "stable", "file")
    assert version == 5


def test_both_versions_of_a_moved_label_are_protected() -> None:
    text = model_config.promote(TEXT, "clothing", "stable", 5, "file")
    assert model_config.protected_versions(text, "clothing", "file") == {3, 5}


@pytest.mark.parametrize(
    ("text", "name", "label", "pattern"),
    [
        ("model_config_list {", "clothing", "stable", r"--model-config.*file"),
        (TEXT, "shoes", "stable", r"file.*'shoes'.*clothing, other"),
        (TEXT, "other", "stable", r"model_version_policy.*Received: none"),
        (TEXT.replace("all {}", "latest { num_versions: 2 }"), "clothing", "stable", "Received: latest"),
        (TEXT.replace("all {}", "specific { versions: 3 }"), "clothing", "stable", "Received: specific"),
        (TEXT, "clothing", "a/b", "--label"),
        (TEXT, "clothing", "stable-previous", "--label"),
    ],
)
def test_what_cannot_be_promoted_is_refused_in_one_line(
    text: str, name: str, label: str, pattern: str
) -> None:
    with pytest.raises(ConfigError, match=pattern) as caught:
        model_config.promote(text, name, label, 5, "file")
    assert "\n" not in str(caught.value)


def test_a_version_that_the_policy_names_can_be_promoted() -> None:
    text = TEXT.replace("all {}", "specific { versions: 3 versions: 5 }")
    assert labels(model_config.promote(text, "clothing", "stable", 5, "file"))["stable"] == 5
