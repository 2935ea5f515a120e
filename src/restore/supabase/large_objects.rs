//! Large objects in a project: made by `pg_restore` as the role's own, then given to their owners where that may be.

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::tag;
use crate::error::Result;
use crate::human;
use crate::postgres::target::project;
use crate::restore::supabase::apply::Applier;
use crate::restore::work::Work;
use crate::sql::names::quote;

/// Their kind in the mark of an unfinished restore.
pub(crate) const KIND: &str = "large object";

/// The large objects of a run.
#[derive(Default)]
pub(crate) struct LargeObjects {
    /// Their numbers.
    pub(crate) oids: Vec<u32>,
    owners: Vec<(u32, String)>,
    privileges: Vec<Entry>,
}

impl LargeObjects {
    /// Reads which there are, for a whole run with rows.
    ///
    /// # Errors
    /// Damage of the store.
    pub(crate) async fn read(work: &Work<'_>) -> Result<Self> {
        let object = work.run.manifest.large_objects.object.as_ref();
        let Some(object) = object.filter(|_| work.part.is_whole() && work.options.has_rows()) else {
            return Ok(Self::default());
        };
        let meta = work.run.table_of_contents(object).await?;
        let mut this = Self::default();
        for entry in meta.entries {
            let numbers: Vec<u32> = match entry.desc {
                ObjectType::Blob => tag(&entry).parse().into_iter().collect(),
                // From pg_dump 17 on: a line for each object of a group.
                ObjectType::BlobMetadata => {
                    let lines = entry.defn.as_deref().unwrap_or_default().lines();
                    lines.filter_map(|line| line.trim().parse().ok()).collect()
                }
                ObjectType::Acl => {
                    this.privileges.push(entry);
                    continue;
                }
                _ => continue,
            };
            let owner = entry.owner.unwrap_or_default();
            this.owners.extend(numbers.iter().map(|oid| (*oid, owner.clone())));
            this.oids.extend(numbers);
        }
        Ok(this)
    }

    /// Makes them, unless some of their numbers are taken.
    ///
    /// # Errors
    /// Damage of the store, lost connections, what `pg_restore` fails with.
    pub(crate) async fn restore(&self, work: &Work<'_>, applier: &Applier<'_>) -> Result<()> {
        let Some(object) = work.run.manifest.large_objects.object.as_ref().filter(|_| !self.oids.is_empty()) else {
            return Ok(());
        };
        let taken = project::large_objects(&work.control, &self.oids).await?;
        if !taken.is_empty() {
            let numbers = human::shortened(taken.iter().map(ToString::to_string), 10, ", ");
            let why = format!("of these numbers {} are taken in this project: {numbers}", taken.len());
            let step =
                "remove those (lo_unlink), then restore them from @large-objects.dump with pg_restore --no-owner";
            applier.ledger.lost("large objects", &format!("({})", self.oids.len()), &why, step);
            return Ok(());
        }
        work.large_objects(object, &["--no-owner", "--no-privileges"]).await?;
        for (oid, owner) in self
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
        for entry in &self.privileges {
            applier.privileges(entry).await?;
        }
        Ok(())
    }
}
