//! Large objects in a project: made by `pg_restore` as the role's own, then given to their owners where that may be.

use crate::error::Result;
use crate::human;
use crate::postgres::target::project;
use crate::restore::large_objects::{Attached, LargeObjects};
use crate::restore::supabase::apply::Applier;
use crate::restore::work::Work;
use crate::sql::names::quote;

/// Their kind in the mark of an unfinished restore.
pub(crate) const KIND: &str = "large object";

/// Makes them, unless some of their numbers are taken.
///
/// # Errors
/// Damage of the store, lost connections, what `pg_restore` fails with.
pub(crate) async fn restore(blobs: &LargeObjects, work: &Work<'_>, applier: &Applier<'_>) -> Result<()> {
    let Some(object) = work.run.manifest.large_objects.object.as_ref().filter(|_| !blobs.oids.is_empty()) else {
        return Ok(());
    };
    let taken = project::large_objects(&work.control, &blobs.oids).await?;
    if !taken.is_empty() {
        let numbers = human::shortened(taken.iter().map(ToString::to_string), 10, ", ");
        let why = format!("of these numbers {} are taken in this project: {numbers}", taken.len());
        let step = "remove those (lo_unlink), then restore them from @large-objects.dump with pg_restore --no-owner";
        applier.ledger.lost("large objects", &format!("({})", blobs.oids.len()), &why, step);
        return Ok(());
    }
    work.large_objects(object).await?;
    for (oid, owner) in blobs
        .owners
        .iter()
        .filter(|(_, owner)| !applier.no_owner && !owner.is_empty() && *owner != applier.project.role)
    {
        if applier.project.is(owner) {
            let sql = format!("ALTER LARGE OBJECT {oid} OWNER TO {};", quote(owner));
            applier.attempt("owner of large object", &oid.to_string(), &sql).await?;
        } else {
            let why = format!("role {} is not a member of it", applier.project.role);
            applier.ledger.unowned(owner, &why, format!("large object {oid}"));
        }
    }
    for attached in &blobs.attached {
        match attached {
            Attached::Privileges(entry) => applier.privileges(entry).await?,
            Attached::Label { oid, sql } => {
                applier.attempt("security label of large object", &oid.to_string(), sql).await.map(drop)?;
            }
        }
    }
    Ok(())
}
