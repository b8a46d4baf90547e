# Derives the arguments of paddle.distributed.launch from a Slurm allocation; sourced by the *.sbatch files.
#
#   slurm_tasks_per_node 'FORM'    "8(x4)" -> 8, "12" -> 12; fails for nodes with unequal counts ("8(x3),4")
#   slurm_launch_arguments         prints "--nnodes=4 --master=node01:29600 --nproc_per_node=8"
#
# The first node of the allocation is the master. Its port follows from the job id, so that two jobs of one node do not
# meet; set PASSL_MASTER_PORT to choose it. Each rank gets one of the GPUs that Slurm made visible. --devices would have
# to name them as CUDA_VISIBLE_DEVICES does ("4,5", or UUIDs): the launcher fails with "'0' is not in list" otherwise.

slurm_tasks_per_node() {
    local form="$1"
    if [[ "$form" =~ ^([0-9]+)(\(x[0-9]+\))?$ ]]; then
        echo "${BASH_REMATCH[1]}"
    else
        echo "SLURM_TASKS_PER_NODE='$form': every node must run the same number of ranks; ask for" \
             "--nodes and --ntasks-per-node instead of --ntasks alone" >&2
        return 1
    fi
}

slurm_launch_arguments() {
    local tasks nodes master port
    if [[ -z "${SLURM_JOB_ID:-}" || -z "${SLURM_JOB_NODELIST:-}" ]]; then
        echo "not inside a Slurm allocation (SLURM_JOB_ID, SLURM_JOB_NODELIST): submit this file with sbatch" >&2
        return 1
    fi
    tasks="$(slurm_tasks_per_node "${SLURM_TASKS_PER_NODE:-}")" || return 1
    nodes="${SLURM_NNODES:-${SLURM_JOB_NUM_NODES:-1}}"
    master="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
    if [[ -z "$master" ]]; then
        echo "scontrol names no host for SLURM_JOB_NODELIST='$SLURM_JOB_NODELIST'" >&2
        return 1
    fi
    port="${PASSL_MASTER_PORT:-$((20000 + SLURM_JOB_ID % 10000))}"
    echo "--nnodes=$nodes --master=$master:$port --nproc_per_node=$tasks"
}
