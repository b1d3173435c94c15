#!/bin/bash
# Start/stop every broker on loopback with its own ports and data folder.
#   brokers.sh start DATA_DIR      brokers.sh stop DATA_DIR
# Redis 7390 without persistence, 7391 AOF everysec, 7392 AOF always; NATS 7422 default sync, 7423 sync_interval
# always; PostgreSQL 7432; RabbitMQ 7672; Temporal 7233; Restate 8080 and 9070.
# PIDs are kept in DATA_DIR/*.pid; stop uses only those.
# Needs on PATH (or named by the variables below): redis-server, postgres 15+
# (PGBIN), rabbitmq-server, nats-server; optional: temporal, restate-server.
set -u
cmd=$1; D=$(realpath -m "$2"); mkdir -p "$D"
PGBIN=${PGBIN:-/usr/lib/postgresql/15/bin}
as_pg() { if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi; }
bg() { n=$1; shift; setsid "$@" >"$D/$n.log" 2>&1 </dev/null & echo $! >"$D/$n.pid"; }
redis() { mkdir -p "$D/$1"; bg "$1" redis-server --port $2 --bind 127.0.0.1 --dir "$D/$1" --daemonize no "${@:3}"; }
nats() { # name port sync
  cat >"$D/$1.conf" <<C
listen: 127.0.0.1:$2
jetstream { store_dir: "$D/$1", max_file_store: 8GB, sync_interval: $3 }
C
  bg "$1" "${NATS_SERVER:-nats-server}" -c "$D/$1.conf"; }
if [ "$cmd" = start ]; then
  redis redis_mem 7390 --save "" --appendonly no
  redis redis_aof 7391 --save "" --appendonly yes --appendfsync everysec
  redis redis_fsync 7392 --save "" --appendonly yes --appendfsync always
  nats nats_default 7422 2m
  nats nats_fsync 7423 always
  if [ ! -d "$D/pg" ]; then mkdir -p "$D/pg"; [ "$(id -u)" = 0 ] && chown postgres "$D/pg"
    as_pg "$PGBIN/initdb" -D "$D/pg" -U bench -A trust -E UTF8 >"$D/initdb.log" 2>&1; fi
  as_pg "$PGBIN/postgres" -D "$D/pg" -p 7432 -h 127.0.0.1 -k "" -c max_connections=300 >"$D/pg.log" 2>&1 </dev/null &
  echo $! >"$D/pg.pid"
  mkdir -p "$D/rabbit"
  export RABBITMQ_NODENAME=bench@localhost RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT=7672 \
    RABBITMQ_DIST_PORT=7673 ERL_EPMD_PORT=7674 ERL_EPMD_ADDRESS=127.0.0.1 RABBITMQ_MNESIA_BASE="$D/rabbit" RABBITMQ_LOG_BASE="$D/rabbit" \
    RABBITMQ_ENABLED_PLUGINS_FILE="$D/rabbit/plugins" RABBITMQ_CONFIG_FILE="$D/rabbit/none" HOME="$D/rabbit"
  [ -e "$D/rabbit/plugins" ] || echo '[].' >"$D/rabbit/plugins"
  export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}"
  bg rabbit "${RABBITMQ_SERVER:-/usr/lib/rabbitmq/bin/rabbitmq-server}"
  command -v "${TEMPORAL:-temporal}" >/dev/null && bg temporal "${TEMPORAL:-temporal}" server start-dev --headless --ip 127.0.0.1 --port 7233 --db-filename "$D/temporal.db" --log-level error
  if command -v "${RESTATE:-restate-server}" >/dev/null; then mkdir -p "$D/restate"
    RESTATE_DISABLE_TELEMETRY=true bg restate "${RESTATE:-restate-server}" --base-dir "$D/restate" --node-name bench \
     --auto-provision true --bind-ip 127.0.0.1 --listen-mode tcp ; fi
  sleep 8; "$PGBIN/createdb" -h 127.0.0.1 -p 7432 -U bench bench 2>/dev/null
  cat "$D"/*.pid | tr '\n' ' '; echo
else
  [ -e "$D/pg/postmaster.pid" ] && kill "$(head -n1 "$D/pg/postmaster.pid")"
  for f in "$D"/*.pid; do kill "$(cat "$f")" 2>/dev/null; kill -CONT "$(cat "$f")" 2>/dev/null; rm -f "$f"; done
  # RabbitMQ leaves behind the port mapper that it started on a port of its own.
  sleep 2; command -v epmd >/dev/null && epmd -port 7674 -kill >/dev/null
  true
fi
