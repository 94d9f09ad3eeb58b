needs sbatch || return
