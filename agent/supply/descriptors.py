"""gRPC services from what their developers have: descriptor sets as protoc writes them, or .proto files."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from ...policies import GrpcServices
from ..errors import InputError

_COMPILE_SECONDS = 60.0


def read_services(files: Iterable[Path], proto_path: Sequence[Path] = ()) -> GrpcServices:
    """The services of all the files together.

    A file that ends in .proto is compiled, by protoc or by grpcio-tools, with its own folder and `proto_path` for what
    it imports. Any other is a FileDescriptorSet
    (https://github.com/protocolbuffers/protobuf/blob/main/src/google/protobuf/descriptor.proto).

    Raises:
        InputError: a file cannot be read or compiled, or none of them defines a service.
    """
    methods: dict[str, frozenset[str]] = {}
    given = list(files)
    for file in given:
        found = _services(file, _compiled(file, proto_path) if file.suffix == ".proto" else _read(file))
        for service, names in found.items():
            methods[service] = methods.get(service, frozenset()) | names
    if not methods:
        listed = ", ".join(map(str, given))
        raise InputError(f"{listed}: no gRPC service is defined there; give the file that defines it")
    return GrpcServices.of(methods)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; give a descriptor set or a .proto file") from None


def _services(file: Path, data: bytes) -> dict[str, frozenset[str]]:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from google.protobuf.message import DecodeError

    try:
        files = FileDescriptorSet.FromString(data).file
    except DecodeError:
        files = []
    if not files or not all(each.name for each in files):
        raise InputError(
            f"{file}: not a descriptor set; write one with protoc --descriptor_set_out=FILE, or give .proto"
        )
    return {
        f"{each.package}.{service.name}" if each.package else str(service.name): frozenset(
            str(method.name) for method in service.method
        )
        for each in files
        for service in each.service
    }


def _compiled(file: Path, proto_path: Sequence[Path]) -> bytes:
    _read(file)  # says better than protoc what is wrong with a file that is not there
    compiler = _compiler()
    known = any(file.resolve().is_relative_to(each.resolve()) for each in proto_path)
    roots = proto_path if known else [file.parent, *proto_path]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "set")
        command = [*compiler, *(f"--proto_path={each}" for each in roots)]
        command += [f"--descriptor_set_out={target}", str(file)]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise InputError(f"{file}: protoc took more than {_COMPILE_SECONDS:.0f} s") from None
        if ended.returncode != 0:
            # Some builds write lines of their logging library first.
            said = [line for line in ended.stderr.splitlines() if ".proto:" in line]
            why = "; ".join(said[:3]) or f"protoc ended with status {ended.returncode}"
            raise InputError(f"{file} does not compile: {why}")
        return target.read_bytes()


def _compiler() -> list[str]:
    """protoc as a command."""
    if (found := shutil.which("protoc")) is not None:
        return [found]
    if find_spec("grpc_tools") is not None:
        return [sys.executable, "-P", "-m", "grpc_tools.protoc"]
    raise InputError(
        "a .proto file needs protoc (Debian's protobuf-compiler) or grpcio-tools (pip install 'lockgate[proto]'); "
        "or give a descriptor set"
    )
