//! The forget list in a drill: every row is proven first, since digests are of what was saved; then the rows of the list are
//! erased in the scratch database, as a restore would do, and every foreign key is counted again. Rolled back: the
//! definitions are compared afterwards.

use std::sync::Arc;

use crate::drill::options::Options;
use crate::drill::receipt::Receipt;
use crate::error::Result;
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::session::Session;
use crate::postgres::target::{execute, foreign_keys, project};
use crate::restore::entry::is_refusal;
use crate::restore::forget::Forget;
use crate::restore::forget::list::List;
use crate::restore::source::{LeaveOut, Loaded};
use crate::sql::names::TableName;

/// Erases, counts, and rolls back. What does not work is a difference, what cannot be known is not proven.
pub(crate) async fn rehearse(
    list: &Arc<List>,
    loaded: &Loaded,
    leave_out: &LeaveOut,
    info: &ConnInfo,
    options: &Options,
    receipt: &mut Receipt,
) -> Result<()> {
    let manifest = &loaded.run.manifest;
    let tables = manifest
        .schemas
        .iter()
        .flat_map(|schema| schema.tables.iter().map(|table| TableName::new(&schema.name, &table.name)));
    let forget = Forget::new(list, manifest, &loaded.meta.entries)
        .into_tables(tables.filter(|name| !leave_out.tables.contains(name)));
    let session = Session::connect(info, options.connect_timeout, "drill").await?;
    execute(&session, "BEGIN", "erase the rows of the forget list").await?;
    match forget.erase(&session).await {
        Err(error) if is_refusal(&error) || error.kind() == crate::error::Kind::Usage => {
            receipt.differences.push(error.message());
        }
        other => other?,
    }
    if let Some(done) = forget.take() {
        // Sees the rows as they were.
        let before = Session::connect(info, options.connect_timeout, "drill").await?;
        for key in foreign_keys::all(&session).await? {
            let doing = format!("count the references of {}", key.from);
            let mut orphans = project::count(&session, &key.count(), &doing).await?;
            if orphans > 0 {
                orphans -= project::count(&before, &key.count(), &doing).await?;
            }
            if orphans > 0 {
                let line = format!("{orphans} rows of {} refer to erased rows of {} ({})", key.from, key.to, key.name);
                receipt.differences.push(line);
            }
        }
        before.close().await;
        receipt.not_proven.extend(done.not_applied.iter().map(|why| format!("forget list: {why}")));
        receipt.forgotten = Some(done);
    }
    session.close().await;
    Ok(())
}
