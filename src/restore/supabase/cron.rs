//! Jobs of `pg_cron`: its table takes no rows from a role that is no superuser, so they are scheduled anew through its
//! functions, active or not as they were, each in one transaction so that an inactive one does not run before.

use crate::error::{Error, Result};
use crate::postgres::error::is_rejection;
use crate::postgres::target::project;
use crate::postgres::target::project::Project;
use crate::restore::findings::Ledger;
use crate::restore::findings::may_hold_secret;
use crate::restore::rows;
use crate::restore::wanted::Wanted;
use crate::restore::work::Work;
use crate::sql::names::{TableName, literal};

/// A job as the run has it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Job {
    id: String,
    schedule: String,
    command: String,
    database: String,
    role: String,
    active: bool,
    name: Option<String>,
}

/// Schedules the jobs of the run.
///
/// # Errors
/// Damage of the store, lost connections.
pub(crate) async fn jobs(work: &Work<'_>, project: &Project, ledger: &Ledger, wanted: &Wanted) -> Result<()> {
    let jobs = read(work, wanted).await?;
    let has_cron = project.tables.contains_key(&TableName::new("cron", "job"));
    let mut scheduled = 0;
    for job in &jobs {
        let sql = statement(job, work, project);
        let told = if may_hold_secret(&sql) {
            "schedule it; its command is in pgstow download --table cron.job, and may hold a secret".to_owned()
        } else {
            sql.clone()
        };
        let name = job.name.clone().unwrap_or_else(|| format!("number {}", job.id));
        if !has_cron {
            ledger.lost("cron job", &name, "pg_cron is not in this project", &format!("enable pg_cron, then: {sql}"));
            continue;
        }
        let same = format!(
            "SELECT count(*) FROM cron.job WHERE schedule = {} AND command = {} AND username = {} AND jobname IS NOT DISTINCT FROM {} AND active = {}",
            literal(&job.schedule),
            literal(&job.command),
            literal(&job.role),
            job.name.as_deref().map_or_else(|| "NULL".to_owned(), literal),
            job.active
        );
        let doing = format!("schedule cron job {name}");
        let done = match project::count(&work.control, &same, &doing).await {
            Ok(0) => project::transaction(&work.control, &format!("{sql};"), &doing).await,
            Ok(_there) => Ok(()),
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => scheduled += 1,
            Err(error) if is_rejection(&error) => {
                ledger.lost("cron job", &name, &error.cause(), &format!("as a role that may: {told}"));
            }
            Err(error) => return Err(error),
        }
    }
    if scheduled > 0 {
        ledger.note(format!("{scheduled} cron jobs are scheduled; the active ones run from now on"));
    }
    Ok(())
}

/// The statement that schedules a job.
fn statement(job: &Job, work: &Work<'_>, project: &Project) -> String {
    let (schedule, command) = (literal(&job.schedule), literal(&job.command));
    let name = job.name.as_deref().map(literal);
    // Jobs of the saved database are jobs of this one, whatever its name.
    let here = job.database == work.run.manifest.source.database;
    let call = if here && job.role == project.role {
        let named = name.map(|name| format!("{name}, ")).unwrap_or_default();
        format!("cron.schedule({named}{schedule}, {command})")
    } else {
        let database = if here { work.info.database() } else { &job.database };
        format!(
            "cron.schedule_in_database({}, {schedule}, {command}, {}, {})",
            name.unwrap_or_else(|| "NULL".to_owned()),
            literal(database),
            literal(&job.role)
        )
    };
    if job.active {
        return format!("SELECT {call}");
    }
    format!("SELECT cron.alter_job(job_id := {call}, active := false)")
}

/// Reads the rows of `cron.job`; there are few.
async fn read(work: &Work<'_>, wanted: &Wanted) -> Result<Vec<Job>> {
    let (head, mut flow) = work.run.file(&wanted.table.file);
    let Ok(head) = head.await else {
        flow.finish().await?;
        return Err(Error::damage(format!("{}: has no COPY statement", wanted.table.file.key)));
    };
    let mut text = Vec::new();
    while let Some(part) = flow.rows.recv().await {
        text.extend_from_slice(&part?);
    }
    let (fingerprint, _) = flow.finish().await?;
    rows::compare(wanted, &fingerprint)?;
    let text = String::from_utf8(text)
        .map_err(|error| Error::damage(format!("{}: is not UTF-8: {error}", wanted.table.file.key)))?;
    let columns = crate::restore::supabase::rows::copied(&head.copy);
    Ok(text.lines().map(|line| job(&columns, line)).collect())
}

fn job(columns: &[String], line: &str) -> Job {
    let mut job = Job { active: true, ..Job::default() };
    for (column, field) in columns.iter().zip(line.split('\t')) {
        let value = unescaped(field);
        match column.as_str() {
            "jobname" => job.name = value,
            "active" => job.active = value.as_deref() != Some("f"),
            "jobid" => job.id = value.unwrap_or_default(),
            "schedule" => job.schedule = value.unwrap_or_default(),
            "command" => job.command = value.unwrap_or_default(),
            "database" => job.database = value.unwrap_or_default(),
            "username" => job.role = value.unwrap_or_default(),
            _ => {}
        }
    }
    job
}

/// A field of COPY text (PostgreSQL's documentation of `COPY`, "Text Format"); `None` is NULL.
fn unescaped(field: &str) -> Option<String> {
    if field == r"\N" {
        return None;
    }
    let mut text = String::with_capacity(field.len());
    let mut letters = field.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            text.push(letter);
            continue;
        }
        match letters.next() {
            Some('b') => text.push('\u{8}'),
            Some('f') => text.push('\u{c}'),
            Some('n') => text.push('\n'),
            Some('r') => text.push('\r'),
            Some('t') => text.push('\t'),
            Some('v') => text.push('\u{b}'),
            Some(other) => text.push(other),
            None => {}
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_read_from_its_line() {
        let columns = ["jobid", "schedule", "command", "nodename", "active", "jobname"].map(str::to_owned);
        let read = job(&columns, "7\t0 3 * * *\tSELECT 'a\\\\b'\\n\tlocalhost\tf\t\\N");
        assert_eq!(read.command, "SELECT 'a\\b'\n");
        assert!(!read.active && read.name.is_none() && read.id == "7");
    }
}
