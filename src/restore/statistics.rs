//! The planner's statistics, gathered when everything else is restored, table by table, by several sessions.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::postgres::target;
use crate::postgres::target::load;
use crate::postgres::target::requests::Requests;
use crate::restore::entry::{has_login_triggers, is_refusal};
use crate::restore::options::Statistics;
use crate::restore::work::Work;

/// Most tables that one session takes at once.
const TOGETHER: usize = 50;

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
        let jobs = usize::from(self.options.jobs);
        let queue = Mutex::new(VecDeque::from(tables));
        let next = || {
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            // The largest come first, each by itself.
            let small = queue.front().is_some_and(|table| !table.is_large);
            let together = if small { (queue.len() / (2 * jobs.max(1))).clamp(1, TOGETHER) } else { 1 };
            let some = together.min(queue.len());
            queue.drain(..some).collect::<Vec<_>>()
        };
        let worker = || async {
            let loader = match load::Loader::connect(&info, self.options.connect_timeout).await {
                Ok(loader) => loader,
                Err(error) => {
                    self.ledger.note(format!("fewer sessions gathered statistics, or none: {}", error.message()));
                    return Ok(());
                }
            };
            let mut requests = Requests::default();
            loop {
                let tables = next();
                if tables.is_empty() {
                    break;
                }
                let made: Vec<_> =
                    tables.iter().map(|table| table.statements(self.options.statistics == Statistics::Full)).collect();
                let texts: Vec<&str> = made.iter().map(|(text, _)| text.as_str()).collect();
                let doing = |number: usize| {
                    let table = tables.get(number);
                    table.map_or_else(String::new, |table| format!("analyze {}.{}", table.schema, table.name))
                };
                let refused = requests.all(loader.session(), &texts, doing).await?;
                let is_refused = |at: usize| refused.iter().any(|(number, _)| *number == at);
                let roughly = made.iter().enumerate().filter(|(at, (_, is_rough))| *is_rough && !is_refused(*at));
                rough.fetch_add(roughly.count() as u64, Ordering::Relaxed);
                for (_, error) in refused {
                    // Nothing is missing from a database without statistics: the server gathers them in time.
                    if !is_refusal(&error) {
                        return Err(error);
                    }
                    self.ledger.note(format!("no statistics: {}", error.message()));
                }
            }
            loader.close().await;
            Ok::<(), Error>(())
        };
        futures::future::try_join_all((0..jobs).map(|_| worker())).await?;
        let rough = rough.into_inner();
        if rough > 0 {
            tracing::info!("{rough} tables have rough statistics, which the server's autovacuum completes");
        }
        Ok(())
    }
}
