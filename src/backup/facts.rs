//! What a run asks besides pg_dump while pg_dump is at work: the facts of the catalogue that its table of contents does not
//! hold, in the leader's transaction, and the roles script of pg_dumpall. Far from the database pg_dump takes a round trip
//! for each table, in which all of this is answered.

use crate::archive::catalogue::{Belongs, ExtensionReach};
use crate::backup::own_encoding;
use crate::backup::run::Run;
use crate::error::Result;
use crate::format::manifest::Omitted;
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::programs::pg_dump;
use crate::postgres::source::additions::Addition;
use crate::postgres::source::leader::Leader;
use crate::postgres::source::{additions, catalogue, leader, members, waiters};
use crate::postgres::target::foreign_keys;

/// The facts, all of the leader's snapshot.
pub(crate) struct Facts {
    pub(crate) belongs: Belongs,
    pub(crate) reach: Vec<ExtensionReach>,
    /// Members of extensions that were changed, or given to them.
    pub(crate) members: Vec<Addition>,
    /// Members that cannot be saved.
    pub(crate) others: Vec<Omitted>,
    pub(crate) additions: Vec<Addition>,
    /// The foreign keys of extensions' tables: referring, referred.
    pub(crate) refers: Vec<(u32, u32)>,
    /// True when extensions have event triggers with code that can wait for a lock.
    pub(crate) event_triggers: bool,
    /// See [`few_connections`].
    pub(crate) few_connections: bool,
}

/// Asks for the facts in one round trip.
pub(crate) async fn facts(run: &Run, leader: &Leader) -> Result<Facts> {
    let client = &leader.session.client;
    let (few_connections, belongs, reach, members, others, additions, refers, event_triggers) = tokio::try_join!(
        few_connections(run, leader),
        catalogue::belongs(client),
        catalogue::reach(client),
        members::members(client),
        members::others(client),
        additions::additions(client, leader.detection.server.version_num),
        foreign_keys::of_extensions(client),
        catalogue::event_triggers_of_extensions(client),
    )?;
    Ok(Facts { belongs, reach, members, others, additions, refers, event_triggers, few_connections })
}

/// True where a limit of the server, the role or the database allows fewer sessions than the run would use at once.
async fn few_connections(run: &Run, leader: &Leader) -> Result<bool> {
    // Readers, the leader, the watcher, the large objects.
    let wanted = i64::from(run.options.limits.jobs) + 3;
    let server = &leader.detection.server;
    let free = server.max_connections - server.reserved_connections - server.connections;
    let database = leader::database_connection_limit(&leader.session.client).await?;
    let limits = [server.role_connection_limit, database];
    let lowest = limits.into_iter().filter(|limit| *limit >= 0).min();
    Ok(free < wanted || lowest.is_some_and(|lowest| lowest < wanted))
}

/// The roles script, read with these settings; a pg_dumpall whose connection froze is started once more.
pub(crate) async fn roles(run: &Run, leader: &Leader, settings: &str) -> Result<Vec<u8>> {
    // pg_dump sets its own timeouts, pg_dumpall keeps those of the role, and no lock of roles is worth a long wait.
    let own = run.child_options.map(|own| format!(" {own} -c lock_timeout=60s")).unwrap_or_default();
    let info = run.options.info.with_options(&format!("{settings}{own}"));
    let script = watched(run, leader, &info).await?;
    own_encoding::with_letters(run, script).await
}

async fn watched(run: &Run, leader: &Leader, info: &ConnInfo) -> Result<Vec<u8>> {
    let server = &leader.detection.server;
    let (silence, application) = (run.options.limits.stall_timeout, pg_dump::roles_application(&run.name));
    for is_last in [false, true] {
        tokio::select! {
            biased;
            roles = pg_dump::roles(&run.tools, info, server.reads_passwords, &run.name, &server.encoding) => return roles,
            stuck = waiters::until_stuck(&leader.session.client, &application, silence) => stuck?,
        }
        if !is_last {
            tracing::warn!("{}; starting it again", pg_dump::lost("pg_dumpall", silence));
        }
    }
    Err(pg_dump::lost("pg_dumpall", silence))
}
