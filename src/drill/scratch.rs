//! The scratch database of a drill: made, made again for a second comparison, and dropped whatever happens.

use std::time::Duration;

use libpgdump::Entry;
use tokio_util::task::TaskTracker;

use crate::error::{Error, Result};
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::session::Session;
use crate::postgres::target;
use crate::restore::database;
use crate::sql::names::quote;

/// The server waits until all its processes have let go of a database that is dropped; a process of an extension that
/// never does (seen with pglogical 2.4.2) would keep the drill for ever.
const DROP_LIMIT: &str = "SET statement_timeout = '5min'";

/// The scratch database, and how it is made.
pub(crate) struct Scratch<'a> {
    info: ConnInfo,
    maintenance: &'a Session,
    connect_timeout: Duration,
    commits: TaskTracker,
}

impl<'a> Scratch<'a> {
    /// The database of this name on the server of `maintenance`. `commits` outlives the drill: it holds what must not
    /// be cut.
    pub(crate) fn new(name: &str, maintenance: &'a Session, connect_timeout: Duration, commits: TaskTracker) -> Self {
        Self { info: maintenance.info().with_database(name), maintenance, connect_timeout, commits }
    }

    /// Connection parameters of the scratch database.
    pub(crate) const fn info(&self) -> &ConnInfo {
        &self.info
    }

    /// `server_version_num` of its server.
    pub(crate) const fn server_version_num(&self) -> u32 {
        self.maintenance.server_version_num()
    }

    /// Makes it again, empty.
    pub(crate) async fn anew(&self, entries: &[Entry]) -> Result<()> {
        let name = self.info.database();
        let drop = format!("DROP DATABASE {} WITH (FORCE)", quote(name));
        let create = database::create(entries, name, self.server_version_num());
        let session = Session::connect(self.maintenance.info(), self.connect_timeout, "drill").await?;
        // Not to be cut: the server would go on without us, and make it after we have dropped it.
        let making = self.commits.spawn(async move {
            target::execute(&session, DROP_LIMIT, "drop the scratch database").await?;
            target::execute(&session, &drop, "drop the scratch database").await?;
            target::execute(&session, &create, "make the scratch database again").await?;
            session.close().await;
            Ok::<_, Error>(())
        });
        making.await.map_err(|error| Error::failed(format!("make the scratch database again: {error}")))?
    }
}

/// Drops the scratch database, with a connection of its own: the others may be what broke.
pub(crate) async fn drop(on: &ConnInfo, connect_timeout: Duration, scratch: &str) -> Result<()> {
    let session = Session::connect(on, connect_timeout, "drill").await?;
    let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote(scratch));
    let dropping = async {
        target::execute(&session, DROP_LIMIT, "drop the scratch database").await?;
        target::execute(&session, &sql, "drop the scratch database").await
    };
    dropping.await.map_err(|error| error.hint(format!("drop {scratch:?} by hand")))?;
    session.close().await;
    Ok(())
}
