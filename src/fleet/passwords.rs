//! The password of a connection that is made anew each time: by a command, or a token of Amazon RDS.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::postgres::connect::password::Source;
use crate::store::s3::database_token::Tokens;

/// The source of passwords that these settings name.
///
/// # Errors
/// Kind `Usage` where they name both.
pub(crate) fn source(command: Option<&str>, rds_iam: bool) -> Result<Option<Source>> {
    let command = command.and_then(Source::command);
    if rds_iam && command.is_some() {
        return Err(Error::usage("--rds-iam and --password-command: a password has one source"));
    }
    Ok(if rds_iam { Some(tokens()) } else { command })
}

fn tokens() -> Source {
    let tokens = Arc::new(Tokens::default());
    Source::Token(Arc::new(move |host, port, user| {
        let tokens = Arc::clone(&tokens);
        Box::pin(async move { tokens.make(&host, port, &user).await })
    }))
}
