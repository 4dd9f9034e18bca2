"""Whether a process is one of several, and what JAX must know to join them: read from the environment alone."""

import re
from collections.abc import Mapping
from typing import Any

from jax._src.clusters import ClusterEnv  # there is no public way to ask what `jax.distributed.initialize` would find

from autosong_jax.cli import log
from autosong_jax.errors import UserError

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def find(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """What `jax.distributed.initialize` is to be called with; None for a process that trains alone.

    The variables JAX_COORDINATOR_ADDRESS (HOST:PORT), JAX_NUM_PROCESSES and JAX_PROCESS_ID come first, then what JAX
    detects: SLURM and Open MPI, with more than one task, and TPU pods. There, the address alone may be given as well.

    Raises:
      UserError: if the variables contradict themselves, or say half of it.
    """
    given = [name for name in (ADDRESS, COUNT, INDEX) if environment.get(name)]
    if len(given) == 3:
        return _plain(environment[ADDRESS], environment[COUNT], environment[INDEX])
    address = {"coordinator_address": environment[ADDRESS]} if given == [ADDRESS] else {}
    if given and not address:
        raise _half(given)
    cluster, tasks = _detected(environment)
    if cluster:
        ids = {"local_device_ids": _local_devices(environment)}
        return address | ids | {"cluster_detection_method": cluster} if tasks > 1 else None
    tasks = environment.get("OMPI_COMM_WORLD_SIZE", "1")  # an Open MPI whose address JAX does not find
    if int(tasks) > 1 and not address:
        raise UserError(f"Open MPI started {tasks} processes and says nothing of an address: give {ADDRESS}=HOST:PORT "
                        "(mpirun -x), HOST being that of rank 0 and PORT any that is free there")
    if int(tasks) > 1:
        return _plain(environment[ADDRESS], tasks, environment["OMPI_COMM_WORLD_RANK"]) | {
            "local_device_ids": _local_devices(environment)}
    if given:
        raise _half(given)
    return None


def _detected(environment: Mapping[str, str]) -> tuple[str, int]:
    """What JAX detects, "" for nothing, and the number of processes there."""
    for cluster in ClusterEnv._cluster_types:
        if cluster.name in _CLUSTERS:
            try:
                if cluster.is_env_present():
                    return cluster.name, _CLUSTERS[cluster.name](cluster, environment)
            except (OSError, ImportError, RuntimeError, ValueError) as error:
                log.warning("Training on this host alone: nothing says whether it is one of several (%s)", error)
    return "", 1


def _slurm_tasks(_: Any, environment: Mapping[str, str]) -> int:
    # Of the step: an interactive shell is a step of one task in an allocation that may be of many.
    return int(environment.get("SLURM_STEP_NUM_TASKS") or environment["SLURM_NTASKS"])


def _tasks(cluster: Any, _: Mapping[str, str]) -> int:
    return cluster.get_process_count()


def _gke_hosts(cluster: Any, environment: Mapping[str, str]) -> int:
    # The number of slices is asked of a server, which a host alone, such as Colab's, may not have.
    alone = len(cluster._get_worker_list_in_slice()) == 1 and not environment.get("MEGASCALE_NUM_SLICES")
    return 1 if alone else cluster.get_process_count()


_CLUSTERS = {"slurm": _slurm_tasks, "ompi": _tasks, "gketpu": _gke_hosts, "gcetpu": _tasks}


def _plain(address: str, count: str, index: str) -> dict[str, Any] | None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"{ADDRESS}={address}: expected HOST:PORT of process 0, such as 10.0.0.1:12345")
    if not count.isdecimal() or int(count) < 1:
        raise UserError(f"{COUNT}={count}: expected the number of processes")
    if not index.isdecimal() or int(index) >= int(count):
        raise UserError(f"{INDEX}={index}: expected 0 to {int(count) - 1}, for {count} processes")
    if int(count) == 1:
        return None
    return {"coordinator_address": address, "num_processes": int(count), "process_id": int(index),
            "cluster_detection_method": "deactivate"}


def _half(given: list[str]) -> UserError:
    missing = [name for name in (ADDRESS, COUNT, INDEX) if name not in given]
    return UserError(f"{', '.join(given)} set, but not {', '.join(missing)}: several processes need all three, one "
                     "alone needs none of them")


def _local_devices(environment: Mapping[str, str]) -> list[int] | None:
    """Which GPUs of its host are this process's: [] for all that it sees, None for the one that its rank names."""
    if environment.get("JAX_LOCAL_DEVICE_IDS"):
        return None  # JAX reads it
    per_host = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") or ""
    alone = set(re.sub(r"\(x\d+\)", "", per_host).split(",")) == {"1"}
    bound = len(environment.get("CUDA_VISIBLE_DEVICES", ",").split(",")) == 1
    return [] if alone or bound else None
