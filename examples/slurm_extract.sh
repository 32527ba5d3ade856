#!/usr/bin/env bash
# Extract on all GPUs of a Slurm allocation: a Ray cluster that lives as long as the job.
#
#     sbatch --nodes=4 examples/slurm_extract.sh 's3://bucket/set-{0000..0999}.tar' s3://bucket/features resnet50.a1_in1k
#     sbatch --nodes=4 examples/slurm_extract.sh /lustre/photos /lustre/features.zarr resnet50.a1_in1k
#
# Every node must see the images and the store under the same names, and have penultimate[ray] (and [cloud] for s3://)
# in the environment below. Killed or out of time, submit it again: it goes on at the first missing shard.
# Written after Ray's own notes on Slurm; checked by `bash -n` alone, for no Slurm was at hand.
#SBATCH --job-name=penultimate
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --time=12:00:00
set -euo pipefail

images=$1 store=$2
shift 2
models=("${@/#/--model=}")
source "${VENV:-.venv}/bin/activate"

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
port=$((20000 + SLURM_JOB_ID % 20000)) # two jobs on one node must not meet
address=$head:$port
here=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-8}" --disable-usage-stats)

# One srun starts Ray on every node and holds it there; it ends with the job.
srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --port="$port" --include-dashboard=false "${here[@]}" --block &
for node in "${nodes[@]:1}"; do
    # Until the head listens.
    srun --nodes=1 --ntasks=1 --nodelist="$node" bash -c \
        "until ray start --address=$address ${here[*]} --block; do sleep 2; done" &
done
trap 'kill $(jobs -p)' EXIT

# The driver runs on the head, beside Ray, once all nodes are there: how many tasks fit decides how many parts it makes.
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" bash -c \
    "until [ \"\$(ray status --address=$address 2>/dev/null | grep -c ' node_')\" -ge ${#nodes[@]} ]; do sleep 2; done"
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" --cpus-per-task=4 \
    penultimate extract "$images" --store "$store" "${models[@]}" --device cuda --cluster "$address" --set shard_rows=4096
