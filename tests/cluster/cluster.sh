#!/usr/bin/env bash
# A real Slurm on this machine: no systemd, no cgroups, no accounting database. Everything lives below one folder.
#   cluster.sh start ROOT NODES PORT    slurmctld on PORT, node i on PORT+i; one fake GPU a node; as root
#   cluster.sh stop ROOT                end the daemons that `start` began, by their recorded pids
# Debian: apt-get install -y --no-install-recommends munge slurmctld slurmd slurm-client
set -euo pipefail
ROOT=$2
CONF=$ROOT/etc/slurm.conf
SOCK=$ROOT/munge/munge.socket
HOST=$(hostname -s)
export SLURM_CONF=$CONF PATH=$PATH:/usr/sbin:/sbin

alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

configure() {
  mkdir -p "$ROOT"/{etc,munge,log,run,state,spool}
  cat > "$CONF" <<CONF
ClusterName=test
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$PORT
AuthType=auth/munge
AuthInfo=socket=$SOCK,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$ROOT/state
SlurmdSpoolDir=$ROOT/spool/%n
SlurmctldPidFile=$ROOT/run/slurmctld.pid
SlurmdPidFile=$ROOT/run/slurmd-%n.pid
SlurmctldLogFile=$ROOT/log/slurmctld.log
SlurmdLogFile=$ROOT/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MaxArraySize=10001
MaxJobCount=20000
KillWait=5
MinJobAge=300
SlurmctldTimeout=30
SlurmdTimeout=20
JobRequeue=1
GresTypes=gpu
CONF
  : > "$ROOT/etc/gres.conf"
  mknod "$ROOT/run/gpu0" c 1 3 2>/dev/null || ln -sf /dev/null "$ROOT/run/gpu0"  # a character device stands for a GPU
  for i in $(seq 1 "$NODES"); do
    echo "NodeName=n$i NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((PORT+i)) CPUs=2 RealMemory=2000 Gres=gpu:1 State=UNKNOWN" >> "$CONF"
    echo "NodeName=n$i Name=gpu Flags=nvidia_gpu_env File=$ROOT/run/gpu0" >> "$ROOT/etc/gres.conf"
  done
  cat >> "$CONF" <<CONF
PartitionName=gpu    Nodes=n[1-$NODES] Default=YES MaxTime=01:00:00 DefaultTime=00:10:00 State=UP PriorityTier=1  PreemptMode=REQUEUE GraceTime=5
PartitionName=urgent Nodes=n[1-$NODES] Default=NO  MaxTime=01:00:00 DefaultTime=00:10:00 State=UP PriorityTier=10 PreemptMode=OFF
CONF
}

start_munge() {
  (umask 077; head -c 1024 /dev/urandom > "$ROOT/munge/munge.key")
  chmod 0400 "$ROOT/munge/munge.key"; chmod 0755 "$ROOT/munge"
  munged --force --key-file="$ROOT/munge/munge.key" --socket="$SOCK" --pid-file="$ROOT/run/munged.pid" \
         --log-file="$ROOT/log/munged.log" --seed-file="$ROOT/munge/munge.seed" --num-threads=2
}

case $1 in
start)
  NODES=$3 PORT=$4
  # a bare network namespace has no address but 127.0.0.1, which name resolution then refuses
  [ -n "$(hostname -I 2>/dev/null | tr -d ' ')" ] || ip addr add 10.99.0.1/32 dev lo 2>/dev/null || true
  configure
  start_munge
  slurmctld -f "$CONF"
  for i in $(seq 1 "$NODES"); do mkdir -p "$ROOT/spool/n$i"; slurmd -f "$CONF" -N "n$i"; done
  for _ in $(seq 1 150); do
    up=$(sinfo -h -N -o '%N %t' 2>/dev/null | awk '$2=="idle"{print $1}' | sort -u | wc -l)
    [ "$up" -ge "$NODES" ] && exit 0
    sleep 0.2
  done
  echo "only $up of $NODES nodes came up" >&2; tail -n 20 "$ROOT/log/slurmctld.log" >&2; exit 1 ;;
stop)
  pids=""
  for f in "$ROOT"/run/*.pid; do if alive "$f"; then pids="$pids $(cat "$f")"; fi; done
  [ -z "$pids" ] || kill $pids 2>/dev/null || true
  for p in $pids; do
    for _ in $(seq 1 100); do kill -0 "$p" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$p" 2>/dev/null || true
  done
  rm -f "$ROOT"/run/*.pid ;;
*) echo "usage: $0 start ROOT NODES PORT | stop ROOT" >&2; exit 2 ;;
esac
