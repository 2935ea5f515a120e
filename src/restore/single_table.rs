//! One table made from its own SQL file: definition and rows in one transaction, indexes and constraints later.

use crate::error::{Error, Result};
use crate::format::manifest::TableKind;
use crate::postgres::target::load;
use crate::restore::options::Options;
use crate::restore::rights;
use crate::restore::rows::{Rows, compare};
use crate::restore::wanted::Wanted;
use crate::sql::letters::{Letters, sendable};
use crate::sql::privileges;
use crate::sql::statements;

impl Rows {
    /// Makes a table from its SQL file and loads its rows, in one transaction, which ends with its row security and its
    /// privileges: nobody sees a row that the saved database did not show. Returns the statements that make its indexes,
    /// constraints and the like.
    ///
    /// # Errors
    /// Damage of the store, and what the server refuses.
    pub(crate) async fn with_definition(&self, wanted: &Wanted, options: &Options) -> Result<Vec<String>> {
        let doing = format!("restore {}", wanted.table_name());
        let taken = |text: &str| -> Vec<String> {
            let all = if self.no_owner { rights::without_owner(text) } else { statements::statements(text) };
            let kept = all.into_iter().filter(|s| options.has_privileges() || !is_privilege(s));
            // Sessions speak UTF-8 whatever the file is in.
            kept.filter(|s| !s.starts_with("SET client_encoding ")).map(str::to_owned).collect()
        };
        let encoding = &self.run.manifest.source.encoding;
        let joined = |all: &[String]| {
            let all: Vec<_> = all.iter().map(|statement| sendable(statement, encoding)).collect();
            all.join(";\n")
        };
        let plain = privileges::plain_table_privileges(&wanted.name());
        let loader = self.session().await?;
        if wanted.table.kind != TableKind::Table {
            let text = self.run.read(&wanted.table.file).await?;
            let letters = Letters::of_script(&text).map_or_else(Letters::default, |(_, letters)| letters);
            let text = letters.decode(&text);
            let (privileges, mut made): (Vec<String>, Vec<String>) =
                attach_late(taken(&text)).into_iter().partition(|s| is_privilege(s));
            made.push(plain);
            made.extend(privileges);
            loader.execute(&format!("BEGIN;\n{};\nCOMMIT", joined(&made)), &doing).await?;
            loader.close().await;
            return Ok(Vec::new());
        }
        let (head, mut flow) = self.run.file(&wanted.table.file);
        let Ok(head) = head.await else {
            flow.finish().await?;
            return Err(Error::damage(format!("{}: has no COPY statement", wanted.table.file.key)));
        };
        let mut before = taken(&head.before);
        // Rows that go through the topmost table need their partition there.
        let is_late =
            |statement: &str| attached(statement).is_some_and(|own| head.copy.starts_with(&format!("COPY {own} ")));
        let late: Vec<String> = before.extract_if(.., |statement| is_late(statement)).collect();
        let privileges: Vec<String> = before.extract_if(.., |statement| is_privilege(statement)).collect();
        before.push(plain);
        loader.execute(&format!("BEGIN;\n{}", joined(&before)), &doing).await?;
        let after = if options.has_rows() {
            let counted = loader.copy(&head.copy, &mut flow.rows, &doing).await;
            let (fingerprint, after) = flow.finish().await?;
            let counted = counted?;
            compare(wanted, &fingerprint)?;
            if counted != fingerprint.rows && wanted.table.extension.is_none() {
                return Err(load::miscounted(&doing, fingerprint.rows, counted));
            }
            after
        } else {
            while flow.rows.recv().await.is_some() {}
            flow.finish().await?.1
        };
        let mut after = taken(&after);
        let guards = after.extract_if(.., |s| is_privilege(s) || s.ends_with(" ROW LEVEL SECURITY"));
        let guards: Vec<String> = guards.chain(privileges).collect();
        loader.execute(&format!("{};\nCOMMIT", joined(&guards)), &doing).await?;
        loader.close().await;
        Ok(attach_late(late.into_iter().chain(after).collect()))
    }
}

/// True for what gives and takes privileges, and for the words around it that say by whom.
fn is_privilege(statement: &str) -> bool {
    ["GRANT ", "REVOKE ", "SET SESSION AUTHORIZATION ", "RESET SESSION AUTHORIZATION"]
        .iter()
        .any(|word| statement.starts_with(word))
}

/// The partition of `ALTER TABLE ONLY parent ATTACH PARTITION own FOR VALUES ...`, as it is written.
fn attached(statement: &str) -> Option<&str> {
    let (_, rest) = statements::name(statement.strip_prefix("ALTER TABLE ONLY ")?)?;
    let (_, rest) = statements::name(rest.strip_prefix('.')?)?;
    let own = rest.strip_prefix(" ATTACH PARTITION ")?;
    let (_, rest) = statements::name(own)?;
    let (_, rest) = statements::name(rest.strip_prefix('.')?)?;
    own.get(..own.len() - rest.len())
}

/// Puts what attaches a partition behind what makes its indexes: PostgreSQL takes those for its parent's. Attached
/// first, as pg_dump writes it, a partition gets them from a parent that has them already, and then again.
fn attach_late(mut statements: Vec<String>) -> Vec<String> {
    let Some(at) = statements.iter().position(|statement| attached(statement).is_some()) else { return statements };
    let is_index = |s: &String| {
        s.starts_with("CREATE INDEX ")
            || s.starts_with("CREATE UNIQUE INDEX ")
            || (s.starts_with("ALTER TABLE ")
                && s.split_once(" ADD CONSTRAINT ").is_some_and(|(_, what)| {
                    [" PRIMARY KEY ", " UNIQUE ", " EXCLUDE "].iter().any(|word| what.contains(word))
                }))
    };
    if let Some(last) = statements.iter().rposition(is_index)
        && last > at
        && let Some(part) = statements.get_mut(at..=last)
    {
        part.rotate_left(1);
    }
    statements
}
