"""Each flag of tensorflow_model_server is obeyed, ignored where nobody can notice, or refused by name."""

import argparse

import pytest

from local_server import cli, flags
from local_server.other_flags import ACCEPTED, REFUSED, check_other_flags

# Source: flag_list in tensorflow_serving/model_servers/main.cc, with values that differ from the defaults.
TENSORFLOW_SERVING = {
    "port": "1",
    "grpc_socket_path": "/tmp/socket",
    "rest_api_port": "1",
    "rest_api_num_threads": "1",
    "rest_api_timeout_in_ms": "1",
    "rest_api_enable_cors_support": "true",
    "enable_batching": "true",
    "allow_version_labels_for_unavailable_models": "true",
    "batching_parameters_file": "file",
    "enable_per_model_batching_parameters": "true",
    "model_config_file": "file",
    "model_config_file_poll_wait_seconds": "1",
    "model_name": "m",
    "model_base_path": "m",
    "num_load_threads": "1",
    "num_unload_threads": "1",
    "max_num_load_retries": "1",
    "load_retry_interval_micros": "-1",
    "file_system_poll_wait_seconds": "0",
    "flush_filesystem_caches": "false",
    "tensorflow_session_parallelism": "1",
    "tensorflow_session_config_file": "file",
    "tensorflow_intra_op_parallelism": "1",
    "tensorflow_inter_op_parallelism": "1",
    "use_alts_credentials": "true",
    "ssl_config_file": "file",
    "platform_config_file": "file",
    "per_process_gpu_memory_fraction": "0.5",
    "saved_model_tags": "serve,gpu",
    "grpc_channel_arguments": "a=b",
    "grpc_max_threads": "1",
    "enable_model_warmup": "false",
    "num_request_iterations_for_warmup": "2",
    "version": "true",
    "monitoring_config_file": "file",
    "remove_unused_fields_from_bundle_metagraph": "false",
    "prefer_tflite_model": "true",
    "num_tflite_pools": "1",
    "num_tflite_interpreters_per_pool": "2",
    "enable_signature_method_name_check": "true",
    "xla_cpu_compilation_enabled": "true",
    "xla_gpu_compilation_enabled": "true",
    "enable_profiler": "false",
    "thread_pool_factory_config_file": "file",
    "mixed_precision": "bfloat16",
    "skip_initialize_tpu": "true",
    "enable_grpc_healthcheck_service": "false",
    "enable_serialization_as_tensor_content": "true",
}


def actions() -> dict[str, argparse.Action]:
    return {action.dest: action for action in flags.build_parser()._actions if action.dest != "help"}


def test_every_flag_of_tensorflow_serving_is_known_and_no_other() -> None:
    assert set(actions()) == set(TENSORFLOW_SERVING)


@pytest.mark.parametrize("name", TENSORFLOW_SERVING)
def test_a_value_is_read_in_both_forms(name: str) -> None:
    value = TENSORFLOW_SERVING[name]
    with_sign = flags.build_parser().parse_args([f"--{name}={value}"])
    default = flags.build_parser().parse_args([])
    assert getattr(with_sign, name) != getattr(default, name)
    assert flags.build_parser().parse_args([f"--{name}", value]) == with_sign


@pytest.mark.parametrize("name", sorted(flag.name for flag in REFUSED))
def test_a_refused_flag_ends_with_one_line_that_names_it_and_the_reason(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--model_base_path=m", f"--{name}={TENSORFLOW_SERVING[name]}"])
    assert caught.value.code == 2
    usage, line = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: ")
    assert f"--{name}:" in line
    assert TENSORFLOW_SERVING[name] in line


def test_a_refused_flag_with_tensorflow_servings_default_is_accepted() -> None:
    arguments = [f"--{flag.name}={str(flag.default).lower()}" for flag in REFUSED]
    parser = flags.build_parser()
    check_other_flags(parser, parser.parse_args(arguments))


def test_no_flag_is_both_accepted_and_refused_and_each_says_why() -> None:
    assert not {flag.name for flag in REFUSED} & {flag.name for flag in ACCEPTED}
    assert all(actions()[flag.name].help == flag.reason for flag in (*ACCEPTED, *REFUSED))


@pytest.mark.parametrize("unknown", ["--nonsense=1", "--model_config", "--enable_batch", "-port=8500"])
def test_an_unknown_or_shortened_flag_is_an_error(unknown: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--model_base_path=m", unknown])
    assert caught.value.code == 2
    assert unknown in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("flag", ["ssl_config_file", "monitoring_config_file", "batching_parameters_file"])
def test_an_empty_file_name_is_no_file(flag: str) -> None:
    assert getattr(flags.build_parser().parse_args([f"--{flag}="]), flag) is None


def test_version_prints_versions_and_needs_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert "TensorFlow Library: " in capsys.readouterr().out


def test_every_flag_has_help() -> None:
    text = flags.build_parser().format_help()
    assert all(f"--{name} " in text for name in TENSORFLOW_SERVING)
    assert all(action.help for action in actions().values())
