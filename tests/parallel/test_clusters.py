"""What environments say of several processes: plain variables, SLURM, Open MPI, TPU hosts."""

import os

import pytest
from jax._src.clusters import cloud_tpu_cluster

from autosong_jax.errors import UserError
from autosong_jax.parallel import clusters

PLAIN = {"JAX_COORDINATOR_ADDRESS": "host:1234", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
SLURM = {"SLURM_JOB_ID": "17", "SLURM_STEP_NODELIST": "node[003-004]", "SLURM_NTASKS": "8", "SLURM_PROCID": "5",
         "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
            "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
OLD_MPI = OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911"}


@pytest.mark.parametrize(("variables", "expected"), [
    ({}, None),
    (PLAIN, {"coordinator_address": "host:1234", "num_processes": 2, "process_id": 1,
             "cluster_detection_method": "deactivate"}),
    (PLAIN | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, None),
    (SLURM, {"cluster_detection_method": "slurm", "local_device_ids": None}),
    (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x8)"}, {"cluster_detection_method": "slurm", "local_device_ids": []}),
    (SLURM | {"CUDA_VISIBLE_DEVICES": "3"}, {"cluster_detection_method": "slurm", "local_device_ids": []}),
    (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, {"cluster_detection_method": "slurm", "local_device_ids": None}),
    (SLURM | {"JAX_COORDINATOR_ADDRESS": "host:1"},
     {"cluster_detection_method": "slurm", "local_device_ids": None, "coordinator_address": "host:1"}),
    (SLURM | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}, None),  # one task
    (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),  # a shell in an allocation of eight
    ({"SLURM_JOB_ID": "17", "SLURM_NTASKS": "8"}, None),  # a batch script, outside srun
    (OLD_MPI, {"cluster_detection_method": "ompi", "local_device_ids": None}),
    (OPEN_MPI | {"JAX_COORDINATOR_ADDRESS": "host:1"},
     {"coordinator_address": "host:1", "num_processes": 4, "process_id": 3, "cluster_detection_method": "deactivate",
      "local_device_ids": None}),
])
def test_what_the_environment_says(variables, expected, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "OMPI_", "JAX_COORD", "CUDA_VISIBLE"))]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert clusters.find(os.environ) == expected


@pytest.mark.parametrize(("variables", "expected"), [
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),  # as on Colab
    ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1", "MEGASCALE_NUM_SLICES": "1"},
     {"cluster_detection_method": "gketpu", "local_device_ids": None}),
    ({}, None),
])
def test_tpu_hosts(variables, expected, monkeypatch):
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    for name, value in {"TPU_SKIP_MDS_QUERY": "1", **variables}.items():
        monkeypatch.setenv(name, value)
    assert clusters.find(os.environ) == expected


def test_slurm_tells_jax_where_the_first_task_is(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    cluster = next(c for c in clusters.ClusterEnv._cluster_types if c.name == "slurm")
    found = cluster.auto_detect_unset_distributed_params(None, None, None, [], "slurm", 10)
    assert found == ("node003:61457", 8, 5, [])


@pytest.mark.parametrize(("variables", "words"), [
    ({"JAX_COORDINATOR_ADDRESS": "host:1234"}, ["JAX_NUM_PROCESSES, JAX_PROCESS_ID", "all three"]),
    ({"JAX_PROCESS_ID": "1", "JAX_NUM_PROCESSES": "2"}, ["not JAX_COORDINATOR_ADDRESS"]),
    (PLAIN | {"JAX_PROCESS_ID": "2"}, ["JAX_PROCESS_ID=2", "0 to 1"]),
    (PLAIN | {"JAX_PROCESS_ID": "first"}, ["JAX_PROCESS_ID=first", "0 to 1"]),
    (PLAIN | {"JAX_NUM_PROCESSES": "0"}, ["JAX_NUM_PROCESSES=0"]),
    (PLAIN | {"JAX_COORDINATOR_ADDRESS": "host"}, ["JAX_COORDINATOR_ADDRESS=host", "HOST:PORT"]),
    (OPEN_MPI, ["4 processes", "JAX_COORDINATOR_ADDRESS=HOST:PORT"]),
])
def test_what_cannot_be_is_named(variables, words):
    with pytest.raises(UserError) as error:
        clusters.find(variables)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)
