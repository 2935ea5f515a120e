//! Values of sequences. A sequence that is in use is never set back: its next value would collide with rows that are
//! there. Only where this restore emptied the table that owns it does it get the saved value whatever it was.

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{namespace, tag};
use crate::error::Result;
use crate::postgres::target::requests::Requests;
use crate::restore::entry::is_refusal;
use crate::restore::findings;
use crate::restore::rows::Tables;
use crate::restore::work::Work;
use crate::sql::names::{literal, quote};
use crate::sql::statements::statements;

impl Work<'_> {
    /// Sets the sequences of these entries; `into` are the tables that rows came into.
    ///
    /// # Errors
    /// A lost connection, or with `--exit-on-error` the first refusal.
    pub(crate) async fn sequences(&self, entries: &[&Entry], into: Tables) -> Result<()> {
        let emptied: Vec<String> = match into {
            Tables::Existing { replace: true } => {
                self.part.tables(&self.run.manifest, true).iter().map(|wanted| literal(&wanted.name())).collect()
            }
            _ => Vec::new(),
        };
        let all: Vec<&Entry> = entries.iter().copied().filter(|e| e.desc == ObjectType::SequenceSet).collect();
        let texts = all.iter().map(|entry| {
            let defn = entry.defn.as_deref().unwrap_or_default();
            match into {
                Tables::New => defn.to_owned(),
                Tables::Existing { .. } => {
                    let forward = never_back(entry).unwrap_or_else(|| defn.to_owned());
                    let owned = owned_by_emptied(entry, &emptied);
                    let back = setval(defn).map(|(call, _, _)| format!("{call} WHERE {owned};")).unwrap_or_default();
                    format!("{forward}\n{back}")
                }
            }
        });
        let texts: Vec<String> = texts.collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let doing = |number: usize| {
            all.get(number).map_or_else(String::new, |entry| format!("set sequence {}", findings::name(entry)))
        };
        for (number, error) in Requests::default().all(&self.control, &texts, doing).await? {
            let Some(entry) = all.get(number).filter(|_| is_refusal(&error) && !self.options.exit_on_error) else {
                return Err(error);
            };
            let defn = entry.defn.as_deref().unwrap_or_default().trim();
            let step = format!("make the sequence, then run: {defn}");
            self.ledger.refused("value of sequence", &findings::name(entry), &error.cause(), &step, defn);
        }
        Ok(())
    }
}

/// True, as SQL, where the sequence of this entry belongs to one of these tables (literals), and no other table takes its
/// values from it.
fn owned_by_emptied(entry: &Entry, emptied: &[String]) -> String {
    if emptied.is_empty() {
        return "false".to_owned();
    }
    let sequence = literal(&format!("{}.{}", quote(namespace(entry)), quote(tag(entry))));
    let tables = format!(
        "SELECT pg_catalog.to_regclass(n)::pg_catalog.oid FROM pg_catalog.unnest(ARRAY[{}]) n",
        emptied.join(", ")
    );
    format!(
        "EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 1259 AND d.refclassid = 1259 AND d.deptype IN ('a', 'i')
            AND d.objid = pg_catalog.to_regclass({sequence}) AND d.refobjid IN ({tables}))
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d LEFT JOIN pg_catalog.pg_attrdef f ON d.classid = 2604 AND f.oid = d.objid
          WHERE d.refclassid = 1259 AND d.refobjid = pg_catalog.to_regclass({sequence}) AND d.deptype = 'n'
            AND (f.adrelid IS NULL OR f.adrelid NOT IN ({tables})))"
    )
}

/// The statement that sets the sequence of an entry to its saved value, unless it has gone further already.
pub(crate) fn never_back(entry: &Entry) -> Option<String> {
    let (call, value, called) = setval(entry.defn.as_deref()?)?;
    let name = format!("{}.{}", quote(namespace(entry)), quote(tag(entry)));
    Some(format!(
        "{call} FROM {name} s, pg_catalog.pg_sequence q
          WHERE q.seqrelid = {}::pg_catalog.regclass
            AND (CASE WHEN q.seqincrement > 0 THEN s.last_value < {value} ELSE s.last_value > {value} END
                 OR (NOT s.is_called AND (s.last_value = q.seqstart OR s.last_value = {value} AND {called})));",
        literal(&name)
    ))
}

/// `SELECT pg_catalog.setval('x', 5, true)`, 5 and `true`, of that statement.
fn setval(defn: &str) -> Option<(&str, &str, &str)> {
    let call = statements(defn).into_iter().find(|s| s.starts_with("SELECT pg_catalog.setval("))?;
    let (rest, called) = call.strip_suffix(')')?.rsplit_once(", ")?;
    let (_, value) = rest.rsplit_once(", ")?;
    Some((call, value, called))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setval_falls_into_its_parts() {
        let (call, value, called) = setval("SELECT pg_catalog.setval('auth.\"a, b\"', 10000, true);\n").unwrap();
        assert_eq!((call, value, called), ("SELECT pg_catalog.setval('auth.\"a, b\"', 10000, true)", "10000", "true"));
    }
}
