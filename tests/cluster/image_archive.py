"""Images as files, where there is no engine that builds one."""

from __future__ import annotations

import json
import platform
import tarfile
import time
from collections.abc import Mapping
from hashlib import sha256
from io import BytesIO
from typing import Any

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def of_one_layer(name: str, layer: bytes, command: list[str]) -> bytes:
    """An archive as `docker save` writes it."""
    config = {
        "architecture": _ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {"Cmd": command},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
    }
    listed = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    return tar({"config.json": _written(config), "manifest.json": _written(listed), "layer.tar": layer})


def upon(manifest: Mapping[str, Any], config: Mapping[str, Any], layer: bytes, name: str) -> bytes:
    """A layout of OCI's with one more layer than the image that these are of. The other layers are not in it: who reads
    it has them (https://github.com/opencontainers/image-spec/blob/main/image-layout.md)."""
    files = {**config["rootfs"], "diff_ids": [*config["rootfs"]["diff_ids"], digest(layer)]}
    told = _written({key: value for key, value in config.items() if key != "history"} | {"rootfs": files})
    made = _written(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {**manifest["config"], **_reference(told)},
            "layers": [*manifest["layers"], {"mediaType": _LAYER, **_reference(layer)}],
        }
    )
    named = {"annotations": {"io.containerd.image.name": name}}
    index = {"schemaVersion": 2, "manifests": [{"mediaType": _MANIFEST, **_reference(made), **named}]}
    layout = {"oci-layout": _written({"imageLayoutVersion": "1.0.0"}), "index.json": _written(index)}
    return tar(layout | {f"blobs/sha256/{sha256(each).hexdigest()}": each for each in (layer, told, made)})


def tar(files: Mapping[str, bytes], mode: int = 0o644) -> bytes:
    """Files that are of now."""
    made = BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode, entry.mtime = len(content), mode, int(time.time())
            archive.addfile(entry, BytesIO(content))
    return made.getvalue()


def digest(content: bytes) -> str:
    """As images name what they are made of."""
    return f"sha256:{sha256(content).hexdigest()}"


def _reference(content: bytes) -> dict[str, object]:
    return {"digest": digest(content), "size": len(content)}


def _written(value: object) -> bytes:
    return json.dumps(value).encode()
