# Source this file: it defines the policy's `detect_schemas URL`, one schema a line, on top of `pgstow detect`.
# PGSTOW names the program (default: pgstow, found in PATH). The URL goes by the environment, not by argv.
detect_schemas() {
  PGSTOW_DATABASE_URL="${1:?usage: detect_schemas URL}" PGSTOW_JSON=false "${PGSTOW:-pgstow}" detect --schemas
}
