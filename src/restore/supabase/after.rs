//! Indexes, constraints, triggers and policies of the application, made by several sessions at once.

use libpgdump::Entry;

use crate::error::{Error, Result};
use crate::postgres::connect::session::Session;
use crate::postgres::target;
use crate::restore::board::Board;
use crate::restore::entry::SETTINGS;
use crate::restore::quick::Sizes;
use crate::restore::supabase::apply::Applier;
use crate::restore::work::Work;

/// Makes these entries, in an order that fits their dependencies.
///
/// # Errors
/// A lost connection; what the server refuses is noted by the applier.
pub(crate) async fn all(work: &Work<'_>, like: &Applier<'_>, entries: &[&Entry]) -> Result<()> {
    let board = Board::new(entries, |id| like.map.entry(id));
    let sizes = Sizes::new(&work.run.manifest);
    let is_quick = |entry: &Entry| sizes.is_quick(entry, |id| like.map.entry(id));
    let workers = usize::from(work.options.jobs).min(entries.len());
    let worker = || async {
        let session = Session::connect(&work.info, work.options.connect_timeout, "restore").await?;
        target::execute(&session, SETTINGS, "set up a session").await?;
        let applier = Applier { session: &session, ..*like };
        while let Some(item) = board.next().await {
            let mut items = vec![item];
            if is_quick(item.entry) {
                items.extend(board.more(workers, is_quick));
            }
            let entries: Vec<&Entry> = items.iter().map(|item| item.entry).collect();
            applier.make_all(&entries).await?;
            for item in items {
                board.end(item);
            }
        }
        session.close().await;
        Ok::<(), Error>(())
    };
    futures::future::try_join_all((0..workers).map(|_| worker())).await.map(drop)
}
