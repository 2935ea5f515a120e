# Reads SQL of pg_dumpall or pg_restore by whole statements, and prints those that are wanted. psql prints a line for each
# one that the server refuses; so does this for one that is not as these programs write it.
function name(  at, sign) { # the name that rest begins with, in hex; as it is, in raw
  raw = ""
  if (substr(rest, 1, 1) != "\"") { match(rest, /^[a-z0-9_]*/); at = RLENGTH + 1; raw = substr(rest, 1, RLENGTH) }
  else for (at = 2; at <= length(rest); at++) {
    sign = substr(rest, at, 1)
    if (sign == "\"" && substr(rest, ++at, 1) != "\"") break
    raw = raw sign
  }
  rest = substr(rest, at); sign = ""
  for (at = 1; at <= length(raw); at++) sign = sign hex[substr(raw, at, 1)]
  return sign
}
function begins(words) { rest = substr(text, length(words) + 1); return index(text, words) == 1 }
function follows(words) { if (index(rest, words) != 1) return 0; rest = substr(rest, length(words) + 1); return 1 }
function run(statement) { print statement "\n\\if :ERROR\n\\echo refused\n\\endif" }
function whole() { return bare ~ /^[A-Za-z0-9_ ,.=*-]*;$/ && bare !~ /--/ } # nothing beside it that psql would read
function give(statement) {
  if (!whole()) { odd(); return }
  if (other != "") run(other)
  run(statement)
  if (other != "") run("RESET SESSION AUTHORIZATION;")
}
function odd() { sub(/'.*/, "...", text); print "RESTORE.md: not run, as it is no statement of roles or databases: " text > "/dev/stderr"; print "\\echo refused" }
function of_roles(  role) {
  if (begins("SET ")) give(text)
  else if (begins("CREATE ROLE ") || begins("ALTER ROLE ") || begins("COMMENT ON ROLE ")) { if (!(name() in have)) give(text) }
  else if (begins("SECURITY LABEL FOR ")) { name(); if (!follows(" ON ROLE ")) odd(); else if (!(name() in have)) give(text) }
  else if (match(text, /^(GRANT|REVOKE) [A-Z, ]+ ON PARAMETER /)) {
    rest = substr(text, RLENGTH + 1); name()
    if (!follows(" TO ") && !follows(" FROM ")) odd(); else if (!(name() in have)) give(text)
  }
  else if (begins("GRANT ")) { role = name(); if (!follows(" TO ")) odd(); else if (!(role in have) || !(name() in have)) give(text) }
  else odd()
}
function of_database(  at, head, tail, setting) {
  if (begins("SET client_encoding ")) { give(text); return }
  at = index(bare, " DATABASE ")
  if (!at || text !~ /^(ALTER|GRANT|REVOKE|COMMENT|SECURITY) /) return
  head = substr(text, 1, at) "DATABASE :\"DBNAME\""; rest = substr(text, at + 10); name(); tail = rest
  if (follows(" OWNER TO ")) return
  if (follows(" SET ")) {
    setting = rest; name(); setting = substr(setting, 1, length(setting) - length(rest))
    if (late == "") give(head " RESET " setting ";\n" head tail) # once more, in the order that they had
    else if (!index(" " late " ", " " tolower(raw) " ")) give(head tail)
  }
  else if (late == "") give(head tail)
}
BEGIN { for (i = 1; i < 256; i++) hex[sprintf("%c", i)] = sprintf("%02x", i); filler = "xxxxxxxxxxxxxxxx" }
what == "roles" && NR == FNR { have[$0]; next }
!inside && (/^ *$/ || /^--/ || /^\\/) { next }
{
  if (inside) { text = text "\n"; bare = bare (quote == "" ? "\n" : "x") }
  else { text = bare = quote = ""; inside = 1 }
  text = text $0
  for (line = $0; line != ""; line = substr(line, n + 1)) {
    if (quote == "") { n = match(line, /['"]/); if (n) quote = substr(line, n, 1); else n = length(line); bare = bare substr(line, 1, quote == "" ? n : n - 1) (quote == "" ? "" : "x") }
    else {
      n = index(line, quote); if (n) quote = ""; else n = length(line)
      while (length(filler) < n) filler = filler filler
      bare = bare substr(filler, 1, n)
    }
  }
  if (quote != "" || bare !~ /;$/) next
  inside = 0
  if (begins("SET SESSION AUTHORIZATION ") && whole()) other = text
  else if (begins("RESET SESSION AUTHORIZATION")) other = ""
  else if (what == "roles") of_roles()
  else of_database()
}
END { if (inside) odd() }
