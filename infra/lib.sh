# Shared by the scripts of this folder, which source it: throw-away servers, free ports, cleaning up, and an environment
# without settings of the caller. Sourcing it does nothing else.
# shellcheck shell=bash

# Below it is everything that a script makes; set by make_base.
base=''
# The folder of rclone and other tools, as infra/setup prints it; set by the script.
tools=''
# Folders of the PostgreSQL servers to stop, and processes to end, both by clean_up.
servers=()
pids=()

# say TEXT: one line of progress, on stderr.
say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# fail TEXT [HINT...]: an error with what to do about it; ends the script.
fail() {
  printf 'error: %s\n' "$1" >&2
  shift
  (($# == 0)) || printf 'hint: %s\n' "$@" >&2
  exit 1
}

# forget_settings PREFIX...: unsets variables that begin so, since settings of the caller would lead PostgreSQL's clients
# and pgstow to somewhere else. Choices about this repository's own tools and tests stay.
forget_settings() {
  local name prefix
  for name in $(compgen -e); do
    case $name in PGSTOW | PGSTOW_TOOLS | PGSTOW_TEST_*) continue ;; esac
    for prefix in "$@"; do
      if [[ $name == "$prefix"* ]]; then unset "$name"; fi
    done
  done
}

# make_base: a folder for everything, removed with all servers and processes when the script ends, however it ends.
# A script that has more to undo defines at_end, which gets the exit status.
make_base() {
  base=$(mktemp -d "${TMPDIR:-/tmp}/pgstow-${0##*/}-XXXXXX")
  chmod 755 "$base"
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
}

clean_up() {
  local status=$? server pid
  trap - EXIT INT TERM HUP
  if declare -F at_end >/dev/null; then at_end "$status" || true; fi
  for pid in ${pids[@]+"${pids[@]}"}; do stop_process "$pid"; done
  for server in ${servers[@]+"${servers[@]}"}; do
    (cd / && as_postgres "$bin/pg_ctl" stop -s -m immediate -D "$server/data") >/dev/null 2>&1 || true
  done
  cd / && rm -rf "$base"
  exit "$status"
}

stop_process() {
  kill "$1" 2>/dev/null || true
  wait "$1" 2>/dev/null || true
}

# PostgreSQL refuses to run as root: root runs servers as user postgres.
as_postgres() {
  if ((EUID == 0)); then setpriv --reuid=postgres --regid=postgres --clear-groups -- "$@"; else "$@"; fi
}

# Sets version and bin: the major version and the programs of the distribution's PostgreSQL.
find_postgres() {
  version=$(dpkg-query -W -f '${Version}' postgresql)
  version=${version%%[^0-9]*}
  bin=/usr/lib/postgresql/$version/bin
}

# start_postgres NAME [OPTION...]: a server of its own in $base/NAME, reached by the socket in that folder, which only its
# owner (and root) can open. Nothing is written through to the disk unless an option says so.
start_postgres() {
  local server=$base/$1
  shift
  mkdir -m 700 "$server"
  if ((EUID == 0)); then chown postgres: "$server"; fi
  servers+=("$server")
  (
    cd /
    as_postgres "$bin/initdb" -D "$server/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 -N >"$server.initdb"
    as_postgres "$bin/pg_ctl" start -s -w -D "$server/data" -l "$server/log" \
      -o "-c listen_addresses='' -c unix_socket_directories='$server' -c fsync=off $*"
  )
}

# free_port OFFSET...: a port that is free itself (offset 0), and so are those that lie so far above it.
free_port() {
  python3 - "$@" <<'PY'
import socket, sys
def free(port):
    with socket.socket() as s:
        try: s.bind(("127.0.0.1", port)); return True
        except OSError: return False
for _ in range(1000):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    if all(port + int(offset) < 65536 and free(port + int(offset)) for offset in sys.argv[1:]):
        print(port)
        break
else:
    sys.exit("no free port")
PY
}

# answers PORT: true when somebody listens there.
answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# start_rclone FOLDER: serves a folder as S3, with the keys of the environment; sets s3_url and s3_pid. Another program
# may take the free port before rclone does: then the next one.
start_rclone() {
  local port waited
  for _ in 1 2 3; do
    port=$(free_port 0)
    RCLONE_CONFIG=/dev/null "$tools/rclone" serve s3 --addr "127.0.0.1:$port" \
      --auth-key "$AWS_ACCESS_KEY_ID,$AWS_SECRET_ACCESS_KEY" "$1" >"$base/rclone.log" 2>&1 &
    s3_pid=$!
    for ((waited = 0; waited < 100; waited++)); do
      kill -0 "$s3_pid" 2>/dev/null || break
      if answers "$port"; then
        pids+=("$s3_pid")
        # shellcheck disable=SC2034 # for the script that asked
        s3_url=http://127.0.0.1:$port
        return 0
      fi
      sleep 0.1
    done
    stop_process "$s3_pid"
  done
  cat "$base/rclone.log" >&2
  fail 'rclone serve s3 does not start; its output is above'
}

# alive TEXT COMMAND...: runs a command that prints nothing for long, and a line every ten seconds meanwhile. Its output
# is shown when it fails.
alive() {
  local text=$1 log from=$SECONDS pid status=0 waited=0
  shift
  log=$(mktemp)
  say "$text ..."
  "$@" >"$log" 2>&1 &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.2
    waited=$((waited + 1))
    if ((waited % 50 == 0)); then say "$text ... $((SECONDS - from)) s"; fi
  done
  wait "$pid" || status=$?
  ((status == 0)) || cat "$log" >&2
  rm -f "$log"
  return "$status"
}
