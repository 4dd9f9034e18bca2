#!/bin/bash
# Trains on several nodes under SLURM: sbatch docs/jobs/slurm.sh --config=... --config.data.path=... --workdir=...
# docs/slurm.md says how. Each node has one process, with all of its GPUs.
#SBATCH --job-name=autosong
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
# Queued again where a node fails or another job takes the nodes.
#SBATCH --requeue
# 300 s before the time is over, training is told to save and end.
#SBATCH --signal=TERM@300

# scancel, and a job that takes the nodes, send SIGTERM to all. It would end this script and srun, with the processes,
# before training has saved.
trap '' TERM

# shellcheck source=/dev/null
. .venv/bin/activate
# If one process ends, the others learn of it and end themselves, or save first.
srun --kill-on-bad-exit=0 --cpus-per-task="$SLURM_CPUS_PER_TASK" docker/restart python -m autosong_jax.train "$@"
status=$?
# 130: training was told to end, and saved. If SLURM is not ending the job, that was since its time is over.
if [ $status = 130 ] && [ "$(squeue --noheader --format=%T --jobs="$SLURM_JOB_ID")" = RUNNING ]; then
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
