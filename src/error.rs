//! The one error type. It owns what a person reads when something went wrong and which exit code a script sees.
//!
//! Rules: the message names the thing and the operation, lower case, no final period; hints say what to do next.
//! An error is printed once, by `main`, on stderr. A message never contains a secret: connection strings are
//! redacted by their type (`postgres::conninfo`), never by the care of the caller.

use std::fmt;

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of an error, on which a caller can decide; each is one exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The operation failed; nothing was promoted. Exit 1.
    Failed,
    /// Wrong usage or configuration. Exit 2.
    Usage,
    /// Done, but partial; the manifest (or the report) says what is missing. Exit 3.
    Partial,
    /// Verification or a drill found damage or a difference. Exit 4.
    Damage,
    /// Interrupted by SIGINT. Exit 130.
    Interrupted,
    /// Interrupted by SIGTERM. Exit 143.
    Terminated,
}

impl Kind {
    /// The process exit code of this kind.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Partial => 3,
            Self::Damage => 4,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }
}

/// The SQLSTATE that a PostgreSQL server gave an error: five characters, the first two of which are its class
/// (appendix A of PostgreSQL's manual). The words of a server may be in any language; this is what decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// The state that this text spells; `None` unless it is five digits or upper-case letters.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let state: [u8; 5] = text.as_bytes().try_into().ok()?;
        state.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase()).then_some(Self(state))
    }

    /// The five characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// True when the state begins with this class, or is this very state.
    #[must_use]
    pub fn is(&self, class: &str) -> bool {
        self.0.starts_with(class.as_bytes())
    }
}

/// An error: its kind, the operations it happened in, its cause, and what a person can do.
#[derive(Debug, Clone)]
pub struct Error {
    kind: Kind,
    /// The innermost first.
    operations: Vec<String>,
    cause: String,
    sqlstate: Option<SqlState>,
    hints: Vec<String>,
}

impl Error {
    /// An error of the given kind.
    #[must_use]
    pub fn new(kind: Kind, cause: impl Into<String>) -> Self {
        Self { kind, operations: Vec::new(), cause: cause.into(), sqlstate: None, hints: Vec::new() }
    }

    /// A failed operation (exit 1).
    #[must_use]
    pub fn failed(cause: impl Into<String>) -> Self {
        Self::new(Kind::Failed, cause)
    }

    /// Wrong usage or configuration (exit 2).
    #[must_use]
    pub fn usage(cause: impl Into<String>) -> Self {
        Self::new(Kind::Usage, cause)
    }

    /// Damage found in stored data (exit 4 in `verify` and `drill`).
    #[must_use]
    pub fn damage(cause: impl Into<String>) -> Self {
        Self::new(Kind::Damage, cause)
    }

    /// Adds a `hint:` line.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Puts `operation: ` before the message: the outer layer says what it was doing.
    #[must_use]
    pub fn context(mut self, operation: impl fmt::Display) -> Self {
        let operation = operation.to_string();
        // The layer below may have said it already, with more words around it (which store it was).
        if !self.message().contains(&operation) {
            self.operations.push(operation);
        }
        self
    }

    /// Changes the kind, for a layer that knows better what the failure means.
    #[must_use]
    pub const fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Notes the SQLSTATE that the server gave.
    #[must_use]
    pub const fn with_sqlstate(mut self, sqlstate: Option<SqlState>) -> Self {
        self.sqlstate = sqlstate;
        self
    }

    /// The kind, on which the caller can decide.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The SQLSTATE, where a server reported the error.
    #[must_use]
    pub const fn sqlstate(&self) -> Option<SqlState> {
        self.sqlstate
    }

    /// True when a server reported the error with this SQLSTATE, or one of this class (its first characters).
    #[must_use]
    pub fn is_sqlstate(&self, class: &str) -> bool {
        self.sqlstate.is_some_and(|state| state.is(class))
    }

    /// The cause, without the operations that it happened in.
    #[must_use]
    pub fn cause(&self) -> String {
        match self.sqlstate {
            Some(state) => format!("{} [{}]", self.cause, state.as_str()),
            None => self.cause.clone(),
        }
    }

    /// The message without hints: the operations, the outermost first, then the cause.
    #[must_use]
    pub fn message(&self) -> String {
        let operations = self.operations.iter().rev().map(|operation| format!("{operation}: "));
        format!("{}{}", operations.collect::<String>(), self.cause())
    }

    /// The hints, in order.
    #[must_use]
    pub fn hints(&self) -> &[String] {
        &self.hints
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        // An error of ours that travelled through an `io` interface comes out unchanged.
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(other) => Self::failed(other.to_string()),
        }
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

/// Adds what was being done to an error of any make.
pub trait Context<T> {
    /// Turns the error into a failed operation whose message begins with `operation`.
    fn context(self, operation: impl fmt::Display) -> Result<T>;
    /// Like [`Context::context`], the text made only in the case of an error.
    fn with_context<D: fmt::Display>(self, operation: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, operation: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.into().context(operation))
    }

    fn with_context<D: fmt::Display>(self, operation: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| error.into().context(operation()))
    }
}

/// A text of somebody else that may quote what a person typed: user and password of URLs in it, and passwords of
/// `key=value` strings, become `***`.
#[must_use]
pub fn without_secrets(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, from) = rest.split_at(at + 3);
        out.push_str(before);
        let line = from.find(['\n', '\r']).and_then(|end| from.get(..end)).unwrap_or(from);
        // A password may hold anything: everything up to the last @ of the line may be part of it.
        match line.rfind('@') {
            Some(end) => {
                out.push_str("***");
                rest = from.get(end..).unwrap_or_default();
            }
            None => rest = from,
        }
    }
    out.push_str(rest);
    let mut rest = std::mem::take(&mut out);
    while let Some(at) = rest.to_ascii_lowercase().find("password=") {
        let tail = rest.split_off(at + "password=".len());
        out.push_str(&rest);
        out.push_str("***");
        let is_end = |c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '`' | '&');
        let end = match tail.strip_prefix('\'') {
            Some(quoted) => {
                let mut escaped = false;
                let end = quoted.find(|c: char| {
                    let is_end = c == '\'' && !escaped;
                    escaped = c == '\\' && !escaped;
                    is_end
                });
                end.map_or(tail.len(), |end| end + 2)
            }
            None => tail.find(is_end).unwrap_or(tail.len()),
        };
        tail.get(end..).unwrap_or_default().clone_into(&mut rest);
    }
    out.push_str(&rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_texts_of_others_are_not_shown() {
        for (text, shown) in [
            ("argument 'postgresql://bk:HUN TER'2@h/x' found", "argument 'postgresql://***@h/x' found"),
            ("a postgres://u:p@h/x\nb postgres://h/y", "a postgres://***@h/x\nb postgres://h/y"),
            ("'host=h password=HUNTER2 user=u'", "'host=h password=*** user=u'"),
            ("host=h PassWord='a \\'b' user=u", "host=h PassWord=*** user=u"),
            ("postgres://h/x?password=HUNTER2&user=u", "postgres://h/x?password=***&user=u"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(without_secrets(text), shown);
        }
    }
}
