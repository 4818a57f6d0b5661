"""Descriptor sets and .proto files, and what `lockgate policy validate --descriptors` makes of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from lockgate.agent.errors import InputError
from lockgate.agent.supply.descriptors import read_services
from lockgate.policies.language.grpc_services import COMMON
from lockgate.tests.command_line import lockgate

PROTO = """
syntax = "proto3";
package shop.v1;
import "shop/text.proto";
service Catalog {
  rpc Get(Text) returns (Text);
  rpc List(Text) returns (stream Text);
}
service Admin { rpc Delete(Text) returns (Text); }
"""
TEXT = 'syntax = "proto3";\npackage shop.v1;\nmessage Text { string text = 1; }\n'
SERVICES = {**COMMON, "shop.v1.Catalog": {"Get", "List"}, "shop.v1.Admin": {"Delete"}}
POLICY = """apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: shop}
spec:
  endpointSelector: {}
  ingress:
  - toPorts:
    - ports: [{port: "50051", protocol: TCP}]
      rules:
        grpc:
        - service: %s
          method: %s
"""


@pytest.fixture(name="folder")
def folder_of_protos(tmp_path: Path) -> Path:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/text.proto").write_text(TEXT)
    (tmp_path / "catalog.proto").write_text(PROTO)
    return tmp_path


@pytest.fixture(name="descriptor_set")
def set_by_protoc(folder: Path) -> Path:
    target = folder / "catalog.pb"
    command = [sys.executable, "-P", "-m", "grpc_tools.protoc", f"--proto_path={folder}"]
    subprocess.run([*command, f"--descriptor_set_out={target}", "catalog.proto"], check=True, cwd=folder)
    return target


def test_a_descriptor_set(descriptor_set: Path) -> None:
    assert read_services([descriptor_set]).methods == SERVICES


def test_a_proto_file_with_its_imports(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert read_services([folder / "catalog.proto"]).methods == SERVICES
    # Next to its imports a file is alone only until it says where they are.
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "catalog.proto"
    elsewhere.write_text(PROTO)
    with pytest.raises(InputError, match=r"catalog\.proto does not compile: .*shop/text\.proto: File not found"):
        read_services([elsewhere])
    assert read_services([elsewhere], [folder]).methods == SERVICES


def test_several_files_count_together(folder: Path, descriptor_set: Path) -> None:
    (folder / "other.proto").write_text('syntax = "proto3";\nmessage M {}\nservice Bare { rpc Ask(M) returns (M); }\n')
    found = read_services([folder / "shop/text.proto", folder / "other.proto", descriptor_set]).methods
    assert found == SERVICES | {"Bare": {"Ask"}}


@pytest.mark.parametrize("data", [b"", b"\xff\xff", b"syntax = 'proto3';", b"\x0a\x00"], ids=range(4))
def test_what_is_no_descriptor_set(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "set.pb"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"set\.pb: not a descriptor set; write one with protoc"):
        read_services([path])


def test_files_that_cannot_be_used(folder: Path) -> None:
    with pytest.raises(InputError, match=r"none\.proto: No such file or directory; give a descriptor set"):
        read_services([folder / "none.proto"])
    with pytest.raises(InputError, match=r"shop: Is a directory; give a descriptor set"):
        read_services([folder / "shop"])
    with pytest.raises(InputError, match=r"text\.proto: no gRPC service is defined there"):
        read_services([folder / "shop/text.proto"])
    (folder / "broken.proto").write_text("service {")
    with pytest.raises(InputError, match=r"broken\.proto does not compile: .*broken\.proto:1:9: Expected service name"):
        read_services([folder / "broken.proto"])


def test_without_a_compiler_the_sentence_says_what_to_install(
    folder: Path, descriptor_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("lockgate.agent.supply.descriptors.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"needs protoc .* or grpcio-tools"):
        read_services([folder / "catalog.proto"])
    assert read_services([descriptor_set]).methods == SERVICES


@pytest.mark.parametrize(
    ("service", "method", "place", "sentence"),
    [
        ("shop.v1.Catalog", "Get", 0, ""),
        ("shop.v1.Catalog", '""', 0, ""),
        ("grpc.health.v1.Health", "Watch", 0, ""),
        (
            "shop.v1.Catalogue",
            "Get",
            11,
            "service: the descriptors have no service 'shop.v1.Catalogue'; did you mean 'shop.v1.Catalog'?",
        ),
        ("shop.v1.Catalog", "get", 12, "method: shop.v1.Catalog has no method 'get'; did you mean 'Get'?"),
        ("shop.v1.Admin", "Erase", 12, "method: shop.v1.Admin has no method 'Erase'; use one of: Delete"),
    ],
)
def test_a_rule_about_what_is_not_there(
    folder: Path, descriptor_set: Path, service: str, method: str, place: int, sentence: str
) -> None:
    policy = folder / "shop.yaml"
    policy.write_text(POLICY % (service, method))
    assert lockgate("policy", "validate", policy).status == 0
    for descriptors in (descriptor_set, folder / "catalog.proto"):
        ended = lockgate("policy", "validate", policy, "--descriptors", descriptors)
        if not sentence:
            assert (ended.status, ended.out) == (0, f"{policy}: valid\n")
        else:
            assert ended.status == 1
            assert ended.err == f"{policy}:{place}: spec.ingress[0].toPorts[0].rules.grpc[0].{sentence}\n"


def test_the_command_says_what_is_wrong_with_the_descriptors(folder: Path) -> None:
    policy = folder / "shop.yaml"
    policy.write_text(POLICY % ("a.B", "C"))
    ended = lockgate("policy", "validate", policy, "--descriptors", folder / "none.pb")
    assert ended.status == 1
    assert ended.err.endswith("none.pb: No such file or directory; give a descriptor set or a .proto file\n")
