#!/bin/bash
# The batch script of `reckon launch --target native` in a real Slurm: a controller, a node and MUNGE
# are started with a configuration of their own in a temporary folder, the job is submitted and has
# to train to its last step over MPI.
#
#   slurm_test.sh RECKON SCENARIO
#
# Exit: 0 it did; 77 skipped, where Slurm is missing or can't start here (says why); 1 it did not.
# Debian: slurm-wlm (with munge) and openmpi-bin.
set -uo pipefail

reckon=$1 scenario=$2
skip() {
  echo "skipped: $*"
  exit 77
}
for program in slurmctld slurmd sbatch scontrol sinfo munged mpirun; do
  PATH=$PATH:/usr/sbin command -v $program > /dev/null || skip "no $program (Debian: slurm-wlm, munge, openmpi-bin)"
done
PATH=$(dirname "$reckon"):$PATH:/usr/sbin

work=$(mktemp -d "${TMPDIR:-/tmp}/reckon-slurm-XXXXXX")
started=()  # processes to end
cleanup() {
  [ ${#started[@]} -eq 0 ] || kill "${started[@]}" 2> /dev/null
  wait
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

# Two free ports.
read -r control_port node_port < <(for port in $(shuf -i 20000-29999 -n 20); do
  (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null || echo "$port"
done | head -n 2 | tr '\n' ' ')
host=$(hostname -s)
user=$(id -un)
cpus=$(nproc)
[ "$cpus" -ge 2 ] || cpus=2  # the job has two tasks; on one core they take turns

mkdir -m 700 "$work/munge" "$work/state" "$work/spool" "$work/home"
chmod 755 "$work"
(umask 077 && head -c 1024 /dev/urandom > "$work/munge/key")
munged --foreground --force --key-file="$work/munge/key" --socket="$work/munge.socket" \
  --pid-file="$work/munge/pid" --log-file="$work/munge/log" --seed-file="$work/munge/seed" \
  > "$work/munged.out" 2>&1 &
started+=($!)

cat > "$work/slurm.conf" << END
ClusterName=reckon-test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$work/munge.socket
SlurmctldPort=$control_port
SlurmdPort=$node_port
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=sched_interval=1,batch_sched_delay=0
MailProg=/bin/true
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=512 State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=INFINITE State=UP
END
export SLURM_CONF=$work/slurm.conf

slurmctld -D > "$work/slurmctld.out" 2>&1 &
started+=($!)
slurmd -D > "$work/slurmd.out" 2>&1 &
started+=($!)
for _ in $(seq 100); do
  state=$(sinfo -h -o %t 2> /dev/null)
  [ "$state" = idle ] && break
  sleep 0.2
done
if [ "$state" != idle ]; then
  tail -n 3 "$work"/*.out "$work/slurmctld.log" "$work/slurmd.log" 2> /dev/null
  skip "Slurm did not start within 20 s (state of its node: ${state:-unknown})"
fi

# The scenario with data to train on: a text of ours as bytes.
"$reckon" data "$work/text" --bytes --text "$0" > "$work/data.out" || {
  cat "$work/data.out"
  exit 1
}
sed '1s|{|{ "training": {"data": ["text.tokens"]},|' "$scenario" > "$work/scenario.json"
job=$work/job
"$reckon" launch "$work/scenario.json" --target native -o "$job" --time 5 > "$work/launch.out" || {
  cat "$work/launch.out"
  exit 1
}
# Open MPI wants to hear from root that it is meant.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
(cd "$job" && timeout 240 sbatch --wait job.sbatch)
code=$?
cat "$job"/*.log
steps=$(sed -n 's/.*"steps": *\([0-9]*\).*/\1/p' "$job/scenario.json" | head -n 1)
if [ $code -ne 0 ] || ! grep -q "^steps 1 to $steps: " "$job"/*.log; then
  echo "the job did not train to step $steps (sbatch: $code)"
  tail -n 20 "$work/slurmctld.log" "$work/slurmd.log"
  exit 1
fi
