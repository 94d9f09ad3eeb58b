# A program that runs as a job has this.
export UWS_PROGRESS=$HOME/progress
