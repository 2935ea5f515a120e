//! Many small transactions in one request, so that a thousand of them at a distance cost a few round trips. Owns how
//! many go together, and how it is known which of them the server refused; what a refusal means is the caller's business.
//!
//! Each text is a transaction of its own as before: `BEGIN; text; COMMIT; BEGIN; ...`. The server stops at the first
//! error, and what was committed stays. Behind each commit the server returns a mark, and one before all of them: the
//! marks that came say which text was refused. Without the first one the request as a whole was not understood (a
//! statement that this server does not know), and fewer are sent together until it is known which.

use futures::StreamExt as _;
use tokio_postgres::SimpleQueryMessage;

use crate::error::{Error, Result};
use crate::postgres::connect::session::Session;
use crate::postgres::error::failure;
use crate::postgres::query::execute;
use crate::postgres::target::project;
use crate::sql::letters::sendable;

/// Most transactions of one request: a hundredth of the round trips is as good as none of them, and a request that is
/// cancelled has not got far.
const MOST: usize = 100;
/// Texts of one request, in bytes: the server parses all of them before the first is run.
const MOST_BYTES: usize = 256 << 10;
/// The name of the column that a mark has.
const MARK: &str = "pgstow_done";

/// The requests of one session.
#[derive(Debug)]
pub(crate) struct Requests {
    most: usize,
}

/// The answer to some transactions.
#[derive(Debug)]
pub(crate) struct Ran {
    /// So many were committed, from the first on.
    pub(crate) done: usize,
    /// The error of the one behind them; the session goes on.
    pub(crate) refused: Option<Error>,
}

impl Default for Requests {
    fn default() -> Self {
        Self { most: MOST }
    }
}

impl Requests {
    /// Transactions that the next request is going to hold at most.
    pub(crate) const fn most(&self) -> usize {
        self.most
    }

    /// Runs texts from the first on, each as one transaction, until one is refused or a request is full; `doing` says
    /// of an error what the text with that number was to do.
    ///
    /// # Errors
    /// A connection that broke.
    pub(crate) async fn run(
        &mut self,
        session: &Session,
        texts: &[&str],
        doing: impl Fn(usize) -> String,
    ) -> Result<Ran> {
        let mut bytes = 0;
        let fits = |text: &&&str| {
            bytes += text.len();
            bytes <= MOST_BYTES
        };
        let count = texts.iter().take(self.most).take_while(fits).count().max(1);
        let Some(texts) = texts.get(..count) else { return Ok(Ran { done: 0, refused: None }) };
        if let [text] = texts {
            self.most = (self.most * 2).min(MOST);
            return alone(session, text, 0, &doing).await;
        }
        let (marks, error) = request(session, texts).await;
        let Some(error) = error else {
            self.most = (self.most * 2).min(MOST);
            return Ok(Ran { done: count, refused: None });
        };
        let done = marks.saturating_sub(1);
        let error = failure(&error).context(doing(done));
        if error.sqlstate().is_none() {
            return Err(error);
        }
        execute(session, "ROLLBACK", &doing(done)).await?;
        if marks == 0 {
            self.most = count / 2;
            return Ok(Ran { done: 0, refused: None });
        }
        // A deadlock with another session: it may well go through now.
        if project::is_passing(&error)
            && let Some(text) = texts.get(done)
        {
            return alone(session, text, done, &doing).await;
        }
        Ok(Ran { done, refused: Some(error) })
    }

    /// Runs all texts, each as one transaction; returns the errors of those that were refused, by number.
    ///
    /// # Errors
    /// A connection that broke.
    pub(crate) async fn all(
        &mut self,
        session: &Session,
        texts: &[&str],
        doing: impl Fn(usize) -> String,
    ) -> Result<Vec<(usize, Error)>> {
        let mut refused = Vec::new();
        let mut at = 0;
        while let Some(left) = texts.get(at..).filter(|left| !left.is_empty()) {
            let ran = self.run(session, left, |number| doing(at + number)).await?;
            at += ran.done;
            if let Some(error) = ran.refused {
                refused.push((at, error));
                at += 1;
            }
        }
        Ok(refused)
    }
}

/// Runs one text, the one behind `done` others.
async fn alone(session: &Session, text: &str, done: usize, doing: impl Fn(usize) -> String) -> Result<Ran> {
    match project::transaction(session, text, &doing(done)).await {
        Ok(()) => Ok(Ran { done: done + 1, refused: None }),
        Err(error) if error.sqlstate().is_some() => Ok(Ran { done, refused: Some(error) }),
        Err(error) => Err(error),
    }
}

/// Sends texts as one request; returns the marks that came back, and the error behind them.
async fn request(session: &Session, texts: &[&str]) -> (usize, Option<tokio_postgres::Error>) {
    let mark = format!("SELECT 1 AS {MARK}");
    let mut sql = mark.clone();
    for text in texts {
        sql.extend([";BEGIN;\n", &sendable(text, session.encoding()), "\n;COMMIT;", &mark]);
    }
    let mut marks = 0;
    let answers = match session.client.simple_query_raw(&sql).await {
        Ok(answers) => answers,
        Err(error) => return (marks, Some(error)),
    };
    let mut answers = std::pin::pin!(answers);
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(SimpleQueryMessage::Row(row)) => {
                marks += usize::from(row.columns().first().is_some_and(|column| column.name() == MARK));
            }
            Ok(_) => {}
            Err(error) => return (marks, Some(error)),
        }
    }
    (marks, None)
}
