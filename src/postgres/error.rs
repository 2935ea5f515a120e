//! Errors of a server or of the way to it, as the one [`Error`]: its SQLSTATE as a value, and hints for what a person
//! can do. Nothing is decided by the words of a server, which may be in any language; only hints are chosen by them.

use std::error::Error as _;

use crate::error::{Error, SqlState};
use crate::postgres::connect::conninfo::ConnInfo;

/// True when a TLS handshake failed: rustls refused it, or the other side ended the connection in the middle of it.
pub(crate) fn is_tls(error: &tokio_postgres::Error) -> bool {
    let io = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| {
        io.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>)
            || [std::io::ErrorKind::UnexpectedEof, std::io::ErrorKind::InvalidInput].contains(&io.kind())
    })
}

/// A connection error with the server's name and hints that depend on it.
pub(crate) fn explain(info: &ConnInfo, error: &tokio_postgres::Error) -> Error {
    let mut explained = failure(error).context(format!("connect to {info}"));
    let text = explained.message();
    let unreachable = ["nreachable", "ssign requested address", "lookup address", "not known", "No address"];
    if info.host().starts_with("db.")
        && info.host().ends_with(".supabase.co")
        && unreachable.iter().any(|part| text.contains(part))
    {
        explained = explained.hint(
            "Supabase's direct host has an IPv6 address only; where there is no IPv6 (most CI runners) use the session \
             pooler's URL: aws-N-REGION.pooler.supabase.com, port 5432, user postgres.PROJECT",
        );
    }
    if text.contains("Tenant or user not found") {
        explained =
            explained.hint("the pooler wants the user as postgres.PROJECT, and the host of the project's region");
    }
    explained
}

/// One readable message for an error of the driver, with hints for what a person can do something about.
#[must_use]
pub(crate) fn failure(error: &tokio_postgres::Error) -> Error {
    let Some(server) = error.as_db_error() else { return local_failure(error) };
    let mut message = server.message().to_owned();
    if let Some(detail) = server.detail() {
        message = format!("{message} ({})", detail.replace('\n', "; "));
    }
    let code = server.code().code();
    let hint = recovery_hint(code, &message).or_else(|| server_hint(code, server.message()));
    let mut failed = Error::failed(message).with_sqlstate(SqlState::parse(code));
    if let Some(hint) = hint {
        failed = failed.hint(hint);
    }
    match server.hint() {
        Some(hint) => failed.hint(hint.replace('\n', " ")),
        None => failed,
    }
}

pub(crate) fn server_hint(code: &str, message: &str) -> Option<&'static str> {
    Some(match code {
        _ if message.contains("EMAXCONNSESSION") || message.contains("max clients reached") => {
            "the pooler's pool is full: lower --jobs, raise the pool size, or connect directly"
        }
        "28P01" => "check user and password; a password with special characters must be percent-encoded in a URL",
        "28000" => "check user, database and sslmode against the server's pg_hba.conf",
        "3D000" => "check the database's name at the end of the URL",
        "53300" => "too many connections: lower --jobs, or raise max_connections or the pool size",
        "53200" => "if the server is out of shared memory, raise max_locks_per_transaction",
        "57P01" | "57P02" => "the server ended the session: it was shut down, restarted or told to",
        "57P03" => "the server is starting up, shutting down or recovering: try again later",
        "42501" => "grant the role what it lacks; pgstow detect lists what it cannot read, and the cure",
        "55P03" => "another session holds the lock: wait for it, or raise --lock-timeout",
        "57014" => "something outside of pgstow cancelled the statement",
        _ => return None,
    })
}

/// The advice about a standby that cancelled a statement or ended a session because it stood in the way of replay. The
/// server says which kind of conflict it was in its DETAIL (`errdetail_recovery_conflict` in `postgres.c`), in the
/// language of its messages; where that is not English, everything is said.
pub(crate) fn recovery_hint(code: &str, message: &str) -> Option<&'static str> {
    // The other causes of 40001 and 40P01 are of writers; a backup only reads.
    let conflict = match code {
        "40001" => !message.contains("could not serialize"),
        "40P01" | "57P04" => message.contains("recovery"),
        _ => false,
    };
    if !conflict {
        return None;
    }
    Some(if message.contains("row versions") {
        "the primary removed row versions that this standby still had to show: set hot_standby_feedback = on on the \
         standby (the primary then keeps them, at the price of some bloat), or raise max_standby_streaming_delay \
         (-1: replay waits as long as the backup takes), or back up the primary"
    } else if message.contains("relation lock") {
        "the primary changed, truncated or dropped a table that was being read (VACUUM does, when it gives back the end \
         of a table): raise max_standby_streaming_delay on the standby (-1: replay waits as long as the backup takes), \
         set vacuum_truncate = off on that table, or back up the primary; hot_standby_feedback does not help here"
    } else {
        "a standby cancels what stands in the way of replay: set hot_standby_feedback = on on the standby, raise \
         max_standby_streaming_delay there (max_standby_archive_delay where it reads WAL from an archive), or back up \
         the primary"
    })
}

/// An error that no server reported: network, TLS, protocol.
pub(crate) fn local_failure(error: &tokio_postgres::Error) -> Error {
    let mut message = error.to_string();
    let mut cause = error.source();
    let mut io = None;
    while let Some(inner) = cause {
        io = io.or_else(|| inner.downcast_ref::<std::io::Error>().map(std::io::Error::kind));
        let text = inner.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        cause = inner.source();
    }
    let hint = match io {
        _ if message.contains("password missing") => Some("give a password in the URL, in PGPASSWORD or in ~/.pgpass"),
        _ if message.contains("does not support TLS") => {
            Some("the server has no TLS: use sslmode=disable where the network is trusted")
        }
        _ if message.contains("UnknownIssuer") || message.contains("CaUsedAsEndEntity") => {
            Some("the server's certificate is not signed by a trusted root: name its root with sslrootcert")
        }
        _ if message.contains("NotValidForName") || message.contains("not valid for name") => {
            Some("the certificate is for another host name: use that name, or sslmode=verify-ca")
        }
        _ if message.contains("TLS") => {
            Some("check sslmode, sslrootcert and, where the server wants one, sslcert and sslkey")
        }
        _ if message.contains("lookup address") || message.contains("not known") => {
            Some("the host's name does not resolve: check it")
        }
        Some(std::io::ErrorKind::ConnectionRefused) => {
            Some("nothing listens there: check host and port, and whether the server runs")
        }
        Some(std::io::ErrorKind::NetworkUnreachable | std::io::ErrorKind::HostUnreachable) => {
            Some("no route to the host from here (an IPv6 address where only IPv4 is routed?)")
        }
        Some(std::io::ErrorKind::TimedOut) => Some("no answer: check host, port and firewall"),
        Some(std::io::ErrorKind::NotFound) => Some("no server's socket there: check the folder and the port"),
        _ => None,
    };
    let failed = Error::failed(message);
    match hint {
        Some(hint) => failed.hint(hint),
        None => failed,
    }
}

/// True when the server itself refused a statement for what it says: other errors (a lost connection, no room, a server
/// that stops) are not about the statement. `XX000` is what many extensions refuse with.
#[must_use]
pub(crate) fn is_rejection(error: &Error) -> bool {
    let elsewhere = ["08", "53", "57", "58", "XX001", "XX002", "F0"];
    error.sqlstate().is_some_and(|state| !elsewhere.iter().any(|class| state.is(class)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_server_says_of_a_statement_is_a_rejection() {
        let error = |text: &str, state| Error::failed(text).with_sqlstate(SqlState::parse(state)).context("make x");
        assert!(is_rejection(&error("permission denied for schema auth", "42501")));
        assert!(!is_rejection(&error("terminating connection", "57P01")));
        assert!(!is_rejection(&error("connection closed", "")));
        // A message that quotes a code, its own included, decides nothing.
        assert!(is_rejection(&error("not allowed here (P0001)", "P0001")));
        assert!(!is_rejection(&error("lost while it said [42501]", "")));
    }
}
