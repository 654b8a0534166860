"""Checks a file for ``ray up`` before it costs money: ``python -m pipelines.launch --check cluster.yaml``."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib import util
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from safa.errors import UserError
from safa.files import reporting_errors

# What is to be filled in: ids of nothing but zeros, addresses that exist for documentation alone (RFC 5737).
PLACEHOLDER = re.compile(r"\b(?:ami|fs|sg|subnet)-0{8,}\b|::0{12}:|\b192\.0\.2\.\d+\b")
OF_REGION = re.compile(r"\bfs-\w+\.efs\.([a-z0-9-]+)\.amazonaws\.com")
PYTHON_TAG = re.compile(r"-py\d+")
RESOURCES = ("CPU", "GPU", "memory", "object_store_memory")  # of Ray's own; there may be others
REGION = re.compile(r"[a-z]{2}(?:-[a-z]+)+-\d")
FORMS_OF_AWS = {
    "ImageId": r"ami-[0-9a-f]{8,17}",
    "IamInstanceProfile.Arn": r"arn:aws[\w-]*:iam::\d{12}:instance-profile/.+",
    "InstanceType": r"[a-z0-9-]+\.[a-z0-9-]+",
}
LISTS_OF_AWS = {"SecurityGroupIds": r"sg-[0-9a-f]{8,17}", "SubnetIds": r"subnet-[0-9a-f]{8,17}"}
OF_RAY = frozenset(("SubnetIds",))  # in a node_config, beside what EC2 takes
FILE_SYSTEM = re.compile(r"\bmount\b.*\bfs-[0-9a-f]{8,17}\.efs\.[\w.-]+:/")
ARM = re.compile(r"[a-z]+\d+[a-z]*g[a-z]*\.")  # a g behind the generation
MOUNTS = re.compile(r"\bmount\b(?!point)")
SHARED = "/mnt/shared"  # where all our documents have what nodes share
TOKEN = ".ray/auth_token"
STARTS = ("head_start_ray_commands", "worker_start_ray_commands")
LARGEST = 2**20  # bytes of such a file


def check_cluster_file(path: Path) -> None:
    """Refuse a file that Ray would refuse, that is not filled in, or whose cluster would be open to others.

    Raises:
        UserError: the first thing that is wrong, with its place in the file.
    """
    cluster = _read(path)
    try:
        jsonschema.validate(cluster, _schema())
    except jsonschema.ValidationError as error:
        key = ".".join(map(str, error.absolute_path))
        fix = "See Ray's reference of cluster files."
        raise UserError(error.message.splitlines()[0], f"{path}: {key}".rstrip(": "), fix) from None
    _check_filled_in(path, cluster)
    _check_types(path, cluster)
    _check_images(path, cluster)
    _check_region(path, cluster)
    if cluster["provider"]["type"] == "aws":
        _check_machines_of_aws(path, cluster)
    _check_access(path, cluster)
    _check_shared(path, cluster)


def _read(path: Path) -> dict[str, Any]:
    try:
        with reporting_errors(path), path.open("rb") as file:
            cluster = yaml.safe_load(file.read(LARGEST))
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"cannot be read ({' '.join(str(error).split())})", str(path), "") from None
    if not isinstance(cluster, dict):
        raise UserError("is not a cluster file", str(path), "Start from cluster.yaml of this project.")
    return cluster


def _schema() -> dict[str, Any]:
    """Ray's own schema, as its wheel has it."""
    spec = util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    schema: dict[str, Any] = json.loads(
        Path(spec.origin).with_name("autoscaler").joinpath("ray-schema.json").read_text(encoding="utf-8")
    )
    return schema


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    children = (
        node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    )
    for name, child in children:
        yield from _leaves(child, f"{key}.{name}" if key else str(name))
    if not isinstance(node, Mapping | list):
        yield key, node


def _check_filled_in(path: Path, cluster: Mapping[str, Any]) -> None:
    """Name all places that are to be filled in at once; most of AWS are used by several machines."""
    places = [
        f"'{found[0]}' at {key}"
        for key, value in _leaves(cluster)
        if (found := PLACEHOLDER.search(str(value)))
    ]
    if places:
        fix = "The comments there and docs/cluster.md say what belongs there."
        raise UserError(f"to be filled in: {', '.join(places)}", str(path), fix)


def _check_types(path: Path, cluster: Mapping[str, Any]) -> None:
    """A head of a type that is there, and pools that can start and be asked for."""
    types, head = cluster.get("available_node_types"), cluster.get("head_node_type")
    if types is not None and head not in types:
        what = f"there is no node type '{head}'"
        raise UserError(what, f"{path}: head_node_type", f"Use one of {', '.join(types)}.")
    most = cluster.get("max_workers")
    pools = [node.get("max_workers", most) for name, node in (types or {}).items() if name != head]
    if types is not None and (most == 0 or not any(each != 0 for each in pools)):
        raise UserError("no worker may start", f"{path}: max_workers", "Let one start, of a pool and in all.")
    for name, node in (types or {}).items():
        where = f"{path}: available_node_types.{name}"
        for resource in node.get("resources", {}):
            known = next(
                (each for each in RESOURCES if each.lower() == resource.lower().rstrip("s")), resource
            )
            if known != resource:
                raise UserError(f"Ray knows no '{resource}'", f"{where}.resources", f"Write {known}.")
        least, own = node.get("min_workers", 0), node.get("max_workers", most)
        if own is not None and least > own:
            raise UserError(f"min_workers {least} is above max_workers {own}", where, "Lower it.")


def _check_region(path: Path, cluster: Mapping[str, Any]) -> None:
    """A file system of another region is not reached from this one."""
    region = cluster["provider"].get("region")
    if cluster["provider"]["type"] == "aws":
        if not region:
            fix = "Write region: and yours, e.g. us-west-2."
            raise UserError("there is no region", f"{path}: provider", fix)
        if not REGION.fullmatch(str(region)):
            fix = "A region ends with its number, e.g. us-west-2; us-west-2a is a zone in it."
            raise UserError(f"'{region}' is no region", f"{path}: provider.region", fix)
        zones = re.split(r"[,\s]+", str(cluster["provider"].get("availability_zone") or "").strip())
        for zone in zones:
            if zone and not zone.startswith(region):
                where = f"{path}: provider.availability_zone"
                raise UserError(f"'{zone}' is not in {region}", where, f"Write {region}a, or leave it out.")
    for key, value in _leaves(cluster):
        found = OF_REGION.search(str(value))
        if region and found and found[1] != region:
            fix = f"Use a file system of {region}, or change provider.region."
            raise UserError(f"'{found[0]}' is not in {region}", f"{path}: {key}", fix)


def _check_machines_of_aws(path: Path, cluster: Mapping[str, Any]) -> None:
    """Keys that EC2 takes, ids of the right form, and processors that the images are for."""
    known = _known_keys()
    for name, node in cluster.get("available_node_types", {}).items():
        config, where = node["node_config"], f"{path}: available_node_types.{name}.node_config"
        for key in config:
            if known and key not in known:
                near = get_close_matches(key, known, 1)
                raise UserError(
                    f"EC2 knows no '{key}'", where, f"Write {near[0]}." if near else "Leave it out."
                )
        for key, form in LISTS_OF_AWS.items():
            ids = config.get(key, [])
            if not isinstance(ids, list) or not all(re.fullmatch(form, str(each)) for each in ids):
                raise UserError(f"'{ids}' is no list of ids", f"{where}.{key}", f"Each has the form {form}.")
        if ARM.match(str(config.get("InstanceType", ""))):
            fix = "Use one with a processor of Intel or AMD, for which Ray's images are."
            raise UserError(f"'{config['InstanceType']}' is an ARM machine", f"{where}.InstanceType", fix)


def _known_keys() -> frozenset[str]:
    """What a node_config may have; empty, for nobody knows, without botocore, which `ray up` needs."""
    try:
        from botocore.session import get_session
    except ImportError:
        return frozenset()
    model = get_session().get_service_model("ec2")
    return OF_RAY.union(model.operation_model("RunInstances").input_shape.members)


def _check_shared(path: Path, cluster: Mapping[str, Any]) -> None:
    """The folder that our documents share is mounted on the hosts, and a container sees it."""
    options = " ".join(map(str, cluster.get("docker", {}).get("run_options", [])))
    commands = [str(each) for each in cluster.get("initialization_commands", []) if SHARED in str(each)]
    mounted = bool(commands)
    mounts = [each for each in commands if MOUNTS.search(each)]
    if mounted and not mounts:
        fix = "Mount your file system there; this project's cluster.yaml has the line for EFS."
        raise UserError(f"nothing is mounted at {SHARED}", f"{path}: initialization_commands", fix)
    for each in mounts:
        if "efs" in each and not FILE_SYSTEM.search(each):
            fix = "An address is fs-0123456789abcdef0.efs.REGION.amazonaws.com:/"
            raise UserError(f"there is no file system in '{each}'", f"{path}: initialization_commands", fix)
        if "nfs" in each and not re.search(r"[\w.-]+\.[\w.-]+:/", each):
            fix = "Write the address with its DNS name, and :/ behind it."
            raise UserError(f"there is no address in '{each}'", f"{path}: initialization_commands", fix)
    if cluster.get("docker") and mounted and f":{SHARED}" not in options:
        fix = f"Add -v {SHARED}:{SHARED}."
        raise UserError(f"the container sees no {SHARED}", f"{path}: docker.run_options", fix)


def _check_images(path: Path, cluster: Mapping[str, Any]) -> None:
    """A machine image for each AWS node; containers of the Ray that is installed here."""
    if cluster["provider"]["type"] == "aws":
        for name, node in cluster.get("available_node_types", {}).items():
            if not node["node_config"].get("ImageId"):
                fix = "Name a current deep-learning image; Ray's default is too old for CUDA 13."
                raise UserError("there is no ImageId", f"{path}: available_node_types.{name}", fix)
            for key, value in _leaves(node["node_config"]):
                form = FORMS_OF_AWS.get(key, ".*")
                if not re.fullmatch(form, str(value)):
                    where = f"{path}: available_node_types.{name}.node_config.{key}"
                    raise UserError(f"'{value}' is none", where, f"It has the form {form}.")
    pythons = {tag for image in cluster.get("docker", {}).values() for tag in PYTHON_TAG.findall(str(image))}
    if len(pythons) > 1:
        fix = "Use the same Python in all of them."
        raise UserError(f"images of several Pythons: {', '.join(sorted(pythons))}", f"{path}: docker", fix)
    ray = importlib.metadata.version("ray")
    for key, image in cluster.get("docker", {}).items():
        if key.endswith("image") and f":{ray}-" not in str(image):
            raise UserError(f"'{image}' is not of Ray {ray}", f"{path}: docker.{key}", f"Use :{ray}-py311.")


def _check_access(path: Path, cluster: Mapping[str, Any]) -> None:
    """Every node asks for the token and has it; the dashboard is for the head alone, folders for one user."""
    mounts = cluster.get("file_mounts", {})
    token = next((local for remote, local in mounts.items() if str(remote).endswith(TOKEN)), None)
    if token is None:
        raise UserError("no node gets the token", f"{path}: file_mounts", f"Mount ~/{TOKEN} there.")
    if not Path(str(token)).expanduser().is_file():
        raise UserError("there is no token yet", str(token), "Run: ray get-auth-token --generate")
    for key in STARTS:
        for command in (str(each) for each in cluster.get(key, []) if "ray start" in str(each)):
            if "RAY_AUTH_MODE=token ray start" not in re.sub(r"RAY_\w+=\d+ ", "", command):
                fix = "Write RAY_AUTH_MODE=token before `ray start`, or everyone in the network may run code."
                raise UserError("Ray would start without asking for the token", f"{path}: {key}", fix)
            host = re.search(r"--dashboard-host[= ](\S+)", command)
            if host and host[1] not in ("127.0.0.1", "localhost"):
                fix = "Use 127.0.0.1; `ray dashboard` forwards it to you."
                raise UserError(f"the dashboard would listen at {host[1]}", f"{path}: {key}", fix)
    for key, value in _leaves(cluster):
        if re.search(r"chmod \S*(?:[ao]\+r?w|[2367]\b(?<=\d{3}))", str(value)):
            raise UserError("everyone could write there", f"{path}: {key}", "Let one user in: chmod 2770.")
