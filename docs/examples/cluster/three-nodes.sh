#!/bin/sh
# Three nodes on this machine: starts them, shows a failover, and stops them again.
# Usage: docs/examples/cluster/three-nodes.sh [BINARY]   (from the top of the repository)
set -eu
actadb=${1:-target/release/actadb}
dir=$(mktemp -d)
pids=
stop() {
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap stop EXIT INT TERM

# What every node knows and nobody else.
head -c 32 /dev/urandom | base64 > "$dir/secret"

start() { # NODE: its data in $dir, ports by config/node-N.toml
    ACTADB_CLUSTER__SECRET_FILE="$dir/secret" "$actadb" \
        --config "config/node-$1.toml" --dir "$dir/node-$1" --log warn &
    eval "pid_$1=$!"
    pids="$pids $!"
}
wait_for() { # NODE
    until "$actadb" ping --address "127.0.0.1:909$1" >/dev/null 2>&1; do sleep 0.2; done
}

echo "== three nodes start, and form a cluster"
for n in 1 2 3; do start $n; done
for n in 1 2 3; do wait_for $n; done
until "$actadb" cluster status --address 127.0.0.1:9091 >/dev/null 2>&1; do sleep 0.2; done
"$actadb" cluster status --address 127.0.0.1:9091

echo "== node 1 takes an event, node 3 reads it"
redis-cli -p 9091 EAPPEND account-1 Opened EXPECTED_VERSION empty PAYLOAD '{"owner":"Ada"}'
redis-cli -p 9093 ESVER account-1

leader=$("$actadb" cluster status --address 127.0.0.1:9091 | sed -n 's/.*leader=\([0-9]\).*/\1/p')
leader=$((leader + 1))
other=$((leader % 3 + 1))
echo "== the leader, config/node-$leader.toml, is killed; the next append finds the new one"
eval "kill -9 \$pid_$leader"
date +%H:%M:%S.%N
redis-cli -p "909$other" EAPPEND account-1 Renamed EXPECTED_VERSION 0
date +%H:%M:%S.%N

echo "== it comes back, and is brought up to date"
start "$leader"
wait_for "$leader"
redis-cli -p "909$leader" ESVER account-1
