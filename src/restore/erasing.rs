//! The step of a restore that erases what a forget list names: after all rows came and were compared, before constraints,
//! triggers and privileges are made, in one transaction. A restore that is killed before it has a mark, and starts over.

use crate::error::{Kind, Result};
use crate::postgres::target::{execute, flush};
use crate::restore::checks;
use crate::restore::entry::is_refusal;
use crate::restore::forget::Forget;
use crate::restore::wanted::Wanted;
use crate::restore::work::Work;
use crate::sql::names::TableName;

impl Work<'_> {
    /// The list as it concerns the tables of this restore; `None` where there is none.
    pub(crate) fn forget(&self) -> Option<Forget> {
        let list = self.options.forget.as_ref()?;
        let manifest = &self.run.manifest;
        let tables = self.part.tables(manifest, true).into_iter();
        let single = self.part.single_tables_in_order(manifest, &self.meta.entries).into_iter();
        let tables: Vec<TableName> = tables.chain(single).map(|wanted: Wanted| wanted.table_name()).collect();
        Some(Forget::new(list, manifest, &self.meta.entries).into_tables(tables))
    }

    /// Erases.
    pub(crate) async fn erase(&self, forget: &Forget) -> Result<()> {
        let doing = "erase the rows of the forget list";
        let control = &self.control;
        execute(control, "BEGIN; SET LOCAL synchronous_commit = on", doing).await?;
        if let Err(error) = forget.erase(control).await {
            // A lost connection rolls back by itself.
            execute(control, "ROLLBACK", doing)
                .await
                .or_else(|lost| if is_refusal(&lost) { Err(lost) } else { Ok(()) })?;
            let error = error.with_kind(Kind::Failed);
            return Err(if checks::marked(&self.run.manifest.run, self.options).is_some() {
                error.hint("the database holds rows that were to be erased, and is marked as unfinished: mend the list, and restore with --start-over")
            } else {
                error.hint("what was restored holds rows that were to be erased: remove it, or erase them by hand")
            });
        }
        execute(control, "COMMIT", doing).await?;
        flush(control).await?;
        for table in self.say_forgotten(forget) {
            // Erased rows are not to stay in the files until autovacuum comes by.
            if let Err(error) = execute(control, &format!("VACUUM {table}"), &format!("vacuum {table}")).await {
                if !is_refusal(&error) {
                    return Err(error);
                }
                tracing::debug!("{error}");
            }
        }
        Ok(())
    }

    /// Adds the account to the report; what could not be applied is listed among what was not restored.
    /// Returns the tables that changed, as SQL.
    pub(crate) fn say_forgotten(&self, forget: &Forget) -> Vec<String> {
        let Some(done) = forget.take() else { return Vec::new() };
        for why in &done.not_applied {
            let step = "mend the line, and restore again; or erase by hand what it means (`pgstow manual restore`)";
            self.ledger.lost("erasure", &done.list, why, step);
        }
        let changed = done.tables.iter().map(|table| table.sql.clone()).collect();
        self.note(|report| report.forgotten = Some(done));
        changed
    }
}
