//! The server, the role and the programs: checks of what they mean for backups.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::backup::newer::newer;
use crate::backup::options::Adopt;
use crate::backup::preflight::{check_prefix, refuse_same_project};
use crate::doctor::findings::Report;
use crate::doctor::options::Database;
use crate::doctor::reach::one_server;
use crate::error::Result;
use crate::human;
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::pooler::Refused;
use crate::postgres::connect::session::Session;
use crate::postgres::extensions;
use crate::postgres::programs::tools::{PgTools, Whose};
use crate::postgres::source::detect::{Detection, RelKind, detect};
use crate::postgres::source::health::{Blocking, Facts};
use crate::postgres::source::{health, leader, timeline};
use crate::postgres::target::mark;
use crate::runs::pointer;
use crate::store::Store;

const AREA: &str = "database";
/// The sessions of a backup besides its readers: the leader, pg_dump, and one for large objects.
const BESIDE_READERS: i64 = 3;
/// The leader and pg_dump: less is not enough.
const LEAST: i64 = 2;
/// The time that a person should have to renew something.
const SOON: i64 = 14 * 24 * 3600;
/// Unreadable things named in a line; the cures name all.
const NAMED: usize = 10;

/// Checks the database; returns the bytes of its tables where it was reached.
pub(crate) async fn examine(
    asked: &Database,
    info: &ConnInfo,
    store: Option<&Store>,
    report: &mut Report,
) -> Option<u64> {
    if !address(info, report).await {
        return None;
    }
    let begun = Instant::now();
    let session = match Session::connect_unpooled(info, asked.connect_timeout, "doctor").await {
        Ok(session) => session,
        Err(refused) => {
            let check = if matches!(refused, Refused::Pooler(_)) { "pooler" } else { "connection" };
            report.failed(AREA, check, &refused.into());
            return None;
        }
    };
    report.ok(AREA, "connection", format!("{info}, {} ms", begun.elapsed().as_millis()));
    match look(&session, asked, store, report).await {
        Ok(size) => Some(size),
        Err(error) => {
            report.failed(AREA, "server", &error);
            None
        }
    }
}

/// Name resolution, and whether there is a way to what it says. False when connecting makes no sense.
async fn address(info: &ConnInfo, report: &mut Report) -> bool {
    let found = match health::addresses(info).await {
        Ok(found) => found,
        Err(error) => {
            let cures = ["check the host's name, and whether this machine can resolve names".to_owned()];
            report.error(
                AREA,
                "address",
                format!("{} does not resolve: {error}", info.host()),
                cures.into_iter().chain([ipv4(info)]),
            );
            return false;
        }
    };
    judge_addresses(info, &found, health::has_route, report)
}

fn judge_addresses(info: &ConnInfo, found: &[IpAddr], has_route: impl Fn(IpAddr) -> bool, report: &mut Report) -> bool {
    let only_v6 = !found.is_empty() && found.iter().all(IpAddr::is_ipv6);
    if only_v6 && !found.iter().any(|address| has_route(*address)) {
        let text = format!("{} has IPv6 addresses only, and this machine has no way to them", info.host());
        report.error(AREA, "address", text, [ipv4(info)]);
        return false;
    }
    if only_v6 && !found.iter().any(IpAddr::is_loopback) {
        let text = format!(
            "{} has IPv6 addresses only; where there is no IPv6 (most CI runners) it cannot be reached",
            info.host()
        );
        report.warn(AREA, "address", text, [ipv4(info)]);
    }
    true
}

/// The other addresses that speak IPv4.
fn ipv4(info: &ConnInfo) -> String {
    let supabase = info.host().starts_with("db.") && info.host().ends_with(".supabase.co");
    if supabase {
        "use the session pooler, which has IPv4: aws-N-REGION.pooler.supabase.com, port 5432, user postgres.PROJECT"
            .to_owned()
    } else {
        "use a host name or pooler that has an IPv4 address, or run where there is IPv6".to_owned()
    }
}

async fn look(session: &Session, asked: &Database, store: Option<&Store>, report: &mut Report) -> Result<u64> {
    let client = &session.client;
    let detection = detect(client).await?;
    let facts = health::facts(client).await?;
    encryption(session, &facts, report);
    one_server(session, asked, report).await?;
    report.ok(AREA, "pooler", "none that shares sessions: a session keeps its backend");
    server(&detection, &facts, report);
    let begun = Instant::now();
    health::started(client).await?;
    programs(&detection, asked, begun.elapsed(), report);
    timeouts(&facts, report);
    privileges(&detection, report);
    locks(&health::blocking(client, &detection).await?, asked.lock_timeout, report);
    lock_table(&detection, report);
    connections(&detection, &facts, i64::from(asked.jobs), report);
    standby(&facts, report);
    for care in extensions::noted() {
        if detection.extensions.iter().any(|one| one.name == care.name) {
            report.warn(AREA, "extension", format!("{}: {}", care.name, care.note.unwrap_or_default()), []);
        }
    }
    if let Err(error) = mark::refuse(client).await {
        report.failed(AREA, "restore", &error);
    }
    if let Some(store) = store {
        together(session, &detection, store, report).await?;
    }
    Ok(detection.relations.iter().map(|relation| u64::try_from(relation.bytes).unwrap_or(0)).sum())
}

fn encryption(session: &Session, facts: &Facts, report: &mut Report) {
    let host = session.info().host();
    let local =
        host.starts_with('/') || host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    let mode = session.info().get("sslmode").unwrap_or("prefer");
    match (session.tls_version(), &facts.server_tls) {
        (Some(version), Some(server)) if server.starts_with(version) => {
            report.ok(AREA, "tls", format!("{server} (sslmode={mode})"));
        }
        (Some(version), server) => {
            let behind = if server.is_some() { "encrypted too" } else { "not encrypted" };
            report.ok(
                AREA,
                "tls",
                format!("{version} to a pooler or proxy (sslmode={mode}); from there to the server {behind}"),
            );
        }
        (None, _) if local => report.ok(AREA, "tls", "not encrypted, on this machine"),
        (None, _) => {
            let cure = "use sslmode=verify-full with sslrootcert, or at least sslmode=require";
            let text = format!("not encrypted (sslmode={mode}): passwords and rows can be read on the way");
            report.warn(AREA, "tls", text, [cure.to_owned()]);
        }
    }
}

fn server(detection: &Detection, facts: &Facts, report: &mut Report) {
    let server = &detection.server;
    let tables = detection.relations.iter().filter(|relation| relation.relkind != RelKind::Sequence).count();
    let size: u64 = detection.relations.iter().map(|relation| u64::try_from(relation.bytes).unwrap_or(0)).sum();
    let text = format!(
        "PostgreSQL {}, database {}: {} schemas, {tables} tables, {}",
        server.version,
        server.database,
        detection.schemas.len(),
        human::size(size)
    );
    if server.version_num < 140_000 {
        report.warn(AREA, "server", text, ["pgstow is made for PostgreSQL 14 to 18: an upgrade is due".to_owned()]);
    } else {
        report.ok(AREA, "server", text);
    }
    if let Some(threshold) = &facts.old_snapshot_threshold {
        let text =
            format!("old_snapshot_threshold = {threshold}: a backup that takes longer fails with \"snapshot too old\"");
        report.warn(AREA, "snapshot", text, ["set old_snapshot_threshold = -1 and restart the server".to_owned()]);
    }
    if let Some(left) = facts.password_ends_in.filter(|left| *left < SOON) {
        let text = format!("the password of {} is accepted for {} days more", server.role, left / 86_400);
        report.warn(AREA, "role", text, ["ALTER ROLE ... VALID UNTIL, or a new password".to_owned()]);
    }
}

fn programs(detection: &Detection, asked: &Database, round_trip: Duration, report: &mut Report) {
    let server = detection.server.version_num;
    match PgTools::find(asked.pg_bin_dir.as_deref(), server, Whose::Server) {
        Err(error) => report.failed(AREA, "pg_dump", &error),
        Ok(tools) => {
            let text = format!("{} in {}", tools.version, tools.pg_dump().display());
            if tools.major == server / 10_000 && tools.minor < server % 10_000 {
                let text = format!("{text}: older than the server's {}", detection.server.version);
                let cure =
                    format!("update postgresql-client-{}: minor releases of pg_dump mend what it writes", tools.major);
                report.warn(AREA, "pg_dump", text, [cure]);
            } else if let Some(better) = newer(detection, tools.major, round_trip) {
                let cure = "install a newer client, or name its folder with --pg-bin-dir; who restores by hand then needs its pg_restore";
                report.warn(AREA, "pg_dump", format!("{text}: {better}"), [cure.to_owned()]);
            } else {
                report.ok(AREA, "pg_dump", text);
            }
        }
    }
}

fn timeouts(facts: &Facts, report: &mut Report) {
    if facts.timeouts.is_empty() {
        report.ok(AREA, "timeouts", "none are set");
    } else {
        report.ok(
            AREA,
            "timeouts",
            format!("{}: pgstow's sessions set them to 0, so they do not count", facts.timeouts.join(", ")),
        );
    }
}

fn privileges(detection: &Detection, report: &mut Report) {
    let server = &detection.server;
    if detection.unreadable.is_empty() {
        let what = if server.superuser { ", a superuser," } else { "" };
        return report.ok(AREA, "privileges", format!("{}{what} can read everything", server.role));
    }
    let gaps = detection.unreadable.iter().map(|gap| format!("{} {} ({})", gap.kind, gap.display_name(), gap.reason));
    let gaps = human::shortened(gaps, NAMED, ", ");
    report.error(AREA, "privileges", format!("{} cannot read {gaps}", server.role), detection.cures());
}

fn locks(blocking: &[Blocking], patience: Duration, report: &mut Report) {
    if blocking.is_empty() {
        return report.ok(AREA, "locks", "no session keeps a table from being read");
    }
    let cures = [format!(
        "the backup waits {} for each lock (--lock-timeout); end these sessions, or run when no migration is running",
        humantime::format_duration(patience)
    )];
    let told: Vec<String> = blocking
        .iter()
        .take(5)
        .map(|lock| {
            let does = if lock.granted { "is locked by" } else { "is waited for by" };
            let pid = lock.pid.map(|pid| format!("pid {pid} ")).unwrap_or_default();
            format!("{} {does} {pid}({}, for {} s): {}", lock.table, lock.role, lock.age, lock.query)
        })
        .collect();
    report.warn(AREA, "locks", told.join("; "), cures);
}

/// Leader and pg_dump each lock every table; the readers one at a time.
fn lock_table(detection: &Detection, report: &mut Report) {
    let server = &detection.server;
    let tables = detection.relations.iter().filter(|relation| relation.relkind.is_lockable()).count();
    let needed = i64::try_from(tables).unwrap_or(i64::MAX).saturating_mul(2);
    let slots = (server.max_connections + server.max_prepared_transactions).max(1);
    let room = server.max_locks_per_transaction * slots;
    let text = format!("{needed} locks for {tables} tables, twice; the server has room for about {room}");
    let cure =
        || [format!("set max_locks_per_transaction = {} and restart the server", (needed * 2 / slots + 1).max(64))];
    if needed > room {
        report.error(AREA, "lock-table", text, cure());
    } else if needed > room / 2 {
        report.warn(AREA, "lock-table", text, cure());
    } else {
        report.ok(AREA, "lock-table", text);
    }
}

fn connections(detection: &Detection, facts: &Facts, jobs: i64, report: &mut Report) {
    let server = &detection.server;
    // This very session ends before a backup begins.
    let reserved = if server.superuser { 0 } else { server.reserved_connections };
    let mut left = (server.max_connections - reserved - server.connections + 1, "the server (max_connections)");
    // Limits of roles and databases do not hold for superusers.
    if !server.superuser {
        if server.role_connection_limit >= 0 {
            left = left.min((server.role_connection_limit - facts.role_connections + 1, "the role (CONNECTION LIMIT)"));
        }
        if facts.database_connection_limit >= 0 {
            left = left.min((
                facts.database_connection_limit - facts.database_connections + 1,
                "the database (CONNECTION LIMIT)",
            ));
        }
    }
    let (left, whose) = left;
    let wanted = jobs + BESIDE_READERS;
    let text = format!("{} left of {whose}, {wanted} wanted", left.max(0));
    let cure = || [format!("end idle sessions, raise the limit, or use --jobs {}", (left - BESIDE_READERS).max(1))];
    if left < LEAST {
        report.error(AREA, "connections", text, cure());
    } else if left < wanted {
        report.warn(AREA, "connections", format!("{text}: fewer readers, a slower backup"), cure());
    } else {
        report.ok(AREA, "connections", text);
    }
}

fn standby(facts: &Facts, report: &mut Report) {
    let Some(standby) = &facts.standby else { return report.ok(AREA, "primary", "this is no standby") };
    let seconds = |ms: i64| if ms < 0 { "for ever".to_owned() } else { format!("{} s", ms / 1000) };
    let behind = standby.behind.map(|behind| format!(", last transaction {behind} s ago")).unwrap_or_default();
    let text = format!(
        "this is a standby{behind}; replay waits {} for queries (archive: {}), hot_standby_feedback is {}",
        seconds(standby.streaming_delay_ms),
        seconds(standby.archive_delay_ms),
        if standby.feedback { "on" } else { "off" }
    );
    let patient = standby.streaming_delay_ms < 0 && standby.archive_delay_ms < 0;
    if patient || standby.feedback {
        report.ok(AREA, "primary", text);
    } else {
        let cures = [
            "set hot_standby_feedback = on, or max_standby_streaming_delay = -1, or back up the primary: replay ends longer reads".to_owned(),
        ];
        report.warn(AREA, "primary", text, cures);
    }
}

/// Checks the database and the store against each other.
async fn together(session: &Session, detection: &Detection, store: &Store, report: &mut Report) -> Result<()> {
    let identity = &detection.server.identity;
    if let Err(error) = refuse_same_project(false, session.info(), store) {
        report.failed(AREA, "same-project", &error);
    }
    match leader::running(&session.client, &store.identity(), identity).await? {
        Some(error) => report.warn(AREA, "running", error.message(), error.hints().iter().cloned()),
        None => report.ok(AREA, "running", "no other backup of this database into this store"),
    }
    // A store that cannot be read says so by itself.
    let place = timeline::place(&session.client).await?;
    if let Err(error) = check_prefix(store, identity, &place, Adopt::None).await
        && error.kind() == crate::error::Kind::Usage
    {
        report.failed(AREA, "prefix", &error);
    }
    if let Err(error) = pointer::latest(store).await
        && error.kind() == crate::error::Kind::Damage
    {
        report.failed(AREA, "latest", &error);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::findings::Level;

    #[test]
    fn a_host_with_ipv6_only_is_an_error_where_no_way_leads_to_it() {
        let info = ConnInfo::resolve(Some("postgres://u@db.abcdefghijklmnopqrst.supabase.co/postgres")).unwrap();
        let (v4, v6): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let judge = |found: &[IpAddr], route: bool| {
            let mut report = Report::default();
            let goes_on = judge_addresses(&info, found, |_| route, &mut report);
            (goes_on, report.verdict(), report.checks.first().map(|check| check.cures.join(" ")).unwrap_or_default())
        };
        let (goes_on, level, cure) = judge(&[v6], false);
        assert!(!goes_on && level == Level::Error && cure.contains("pooler.supabase.com, port 5432"), "{cure}");
        assert_eq!(judge(&[v6], true).1, Level::Warning);
        assert_eq!(judge(&[v6, v4], false), (true, Level::Ok, String::new()));
        assert_eq!(judge(&[], false).1, Level::Ok);
    }
}
