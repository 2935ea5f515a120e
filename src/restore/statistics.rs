//! The planner's statistics, gathered when everything else is restored, table by table, by several sessions.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::postgres::target;
use crate::postgres::target::load;
use crate::restore::entry::{has_login_triggers, is_refusal};
use crate::restore::options::Statistics;
use crate::restore::work::Work;

impl Work<'_> {
    /// Gathers the planner's statistics, table by table, by several sessions.
    pub(crate) async fn analyze(&self) -> Result<()> {
        let mut tables = load::analyzable(&self.control).await?;
        if self.part.is_whole() {
            tables.retain(|table| !table.is_partition);
        } else {
            let ours = self.part.tables(&self.run.manifest, true);
            let ours: HashSet<(&str, &str)> = ours.iter().map(|w| (w.schema.as_str(), w.table.name.as_str())).collect();
            tables.retain(|table| ours.contains(&(&table.schema, &table.name)));
        }
        self.analyze_these(tables).await
    }

    pub(crate) async fn analyze_these(&self, tables: Vec<load::Analyzable>) -> Result<()> {
        // A login by this restore is none of the application's.
        let info = if has_login_triggers(&self.meta.entries) {
            target::without_event_triggers(&self.control, &self.info).await?
        } else {
            self.info.clone()
        };
        let rough = AtomicU64::new(0);
        let (foreign, tables): (Vec<_>, Vec<_>) = tables.into_iter().partition(|table| table.has_foreign);
        for table in foreign {
            self.ledger.note(format!(
                "no statistics of {}.{} as a whole: part of it is a foreign table, whose server is not contacted",
                table.schema, table.name
            ));
        }
        let queue = Mutex::new(tables.into_iter());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let worker = || async {
            let loader = match load::Loader::connect(&info, self.options.connect_timeout).await {
                Ok(loader) => loader,
                Err(error) => {
                    self.ledger.note(format!("fewer sessions gathered statistics, or none: {}", error.message()));
                    return Ok(());
                }
            };
            while let Some(table) = next() {
                let (statements, is_rough) = table.statements(self.options.statistics == Statistics::Full);
                match loader.execute(&statements, &format!("analyze {}.{}", table.schema, table.name)).await {
                    Ok(()) => {
                        rough.fetch_add(u64::from(is_rough), Ordering::Relaxed);
                    }
                    // Nothing is missing from a database without statistics: the server gathers them in time.
                    Err(error) if is_refusal(&error) => {
                        self.ledger.note(format!("no statistics: {}", error.message()));
                        loader.execute("ROLLBACK", "analyze").await?;
                    }
                    Err(error) => return Err(error),
                }
            }
            loader.close().await;
            Ok::<(), Error>(())
        };
        futures::future::try_join_all((0..self.options.jobs).map(|_| worker())).await?;
        let rough = rough.into_inner();
        if rough > 0 {
            tracing::info!("{rough} tables have rough statistics, which the server's autovacuum completes");
        }
        Ok(())
    }
}
