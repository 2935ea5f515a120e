//! The databases that there are now: those of the file, and those that the servers with `all-databases` have.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::fleet::file::{Database, File, Server};
use crate::fleet::keys::Keys;
use crate::fleet::plan::{Plan, Subject, Url, connection};
use crate::postgres::source::server;
use crate::runs::select;

/// Longest time to reach a server that is asked for its databases.
pub(crate) const CONNECT: Duration = Duration::from_secs(15);

/// A database that the file excludes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Excluded {
    pub(crate) server: String,
    pub(crate) database: String,
}

/// A server that could not be asked for its databases.
#[derive(Debug)]
pub(crate) struct Unlisted {
    pub(crate) server: String,
    pub(crate) error: Error,
}

/// All databases, with what is done for each.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    pub(crate) plans: Vec<Plan>,
    pub(crate) excluded: Vec<Excluded>,
    pub(crate) unlisted: Vec<Unlisted>,
}

impl Roster {
    /// Finds the databases of these names, or all: a server's name stands for all databases of it.
    ///
    /// # Errors
    /// Kind `Usage`: a name that nothing has, a plan that makes no sense.
    pub(crate) async fn find(file: &File, wanted: &[String], keys: &Keys) -> Result<Self> {
        let mut roster = Self::default();
        for database in &file.databases {
            roster.plans.push(of_file(file, database, keys)?);
        }
        for server in file.servers.iter().filter(|server| server.all_databases) {
            let own = |name: &String| *name == server.name || name.starts_with(&format!("{}/", server.name));
            if wanted.is_empty() || wanted.iter().any(own) {
                roster.add_server(file, server, keys).await?;
            }
        }
        roster.choose(file, wanted)?;
        roster.refuse_shared_stores()?;
        Ok(roster)
    }

    async fn add_server(&mut self, file: &File, server: &Server, keys: &Keys) -> Result<()> {
        let names = async {
            let info = connection(&server.url, &[&server.section.settings, &file.defaults.settings]).await?;
            server::databases(&info, CONNECT).await
        };
        let names = match names.await {
            Ok(names) => names,
            Err(error) => {
                self.unlisted.push(Unlisted { server: server.name.clone(), error });
                return Ok(());
            }
        };
        for gone in server.exclude.iter().filter(|name| !names.contains(name)) {
            tracing::warn!("[[server]] {}: there is no database {gone:?} to exclude", server.name);
        }
        for database in names {
            let has_own = file.databases.iter().any(|one| {
                one.server.as_deref() == Some(server.name.as_str()) && one.url.is_none() && one.name == database
            });
            if has_own {
                continue;
            }
            if server.exclude.contains(&database) {
                self.excluded.push(Excluded { server: server.name.clone(), database });
                continue;
            }
            let subject = Subject {
                name: &format!("{}/{database}", server.name),
                server: Some(&server.name),
                database: &database,
                url: Url::OnServer { server: server.url.clone(), database: database.clone() },
                server_url: Some(server.url.clone()),
                sections: vec![&server.section, &file.defaults],
            };
            self.plans.push(Plan::new(subject, keys)?);
        }
        Ok(())
    }

    fn choose(&mut self, file: &File, wanted: &[String]) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        for name in wanted {
            let unlisted = self.unlisted.iter().any(|one| name.split('/').next() == Some(one.server.as_str()));
            let known: Vec<&str> = self
                .plans
                .iter()
                .flat_map(|plan| [Some(plan.name.as_str()), plan.server.as_deref()])
                .flatten()
                .chain(file.servers.iter().map(|server| server.name.as_str()))
                .collect();
            if !unlisted && !known.contains(&name.as_str()) {
                let error = Error::usage(format!("no database and no server {name:?} in {}", file.path.display()));
                let near = select::nearest(name, &known);
                return Err(if near.is_empty() {
                    error.hint("`pgstow config check` lists the databases")
                } else {
                    error.hint(format!("did you mean {}?", near.join(" or ")))
                });
            }
        }
        self.plans
            .retain(|plan| wanted.contains(&plan.name) || plan.server.as_ref().is_some_and(|s| wanted.contains(s)));
        Ok(())
    }

    /// One prefix belongs to one database.
    fn refuse_shared_stores(&self) -> Result<()> {
        let mut stores: BTreeMap<&str, &str> = BTreeMap::new();
        for plan in &self.plans {
            if let Some(other) = stores.insert(plan.store.trim_end_matches('/'), &plan.name) {
                return Err(Error::usage(format!("{other} and {} have one store: {}", plan.name, plan.store))
                    .hint("a prefix belongs to one database: store = \"s3://bucket/{name}\" makes one for each"));
            }
        }
        Ok(())
    }
}

fn of_file(file: &File, database: &Database, keys: &Keys) -> Result<Plan> {
    let server = database.server.as_ref().and_then(|name| file.servers.iter().find(|server| server.name == *name));
    let url = match (&database.url, server) {
        (Some(url), _) => Url::Given(url.clone()),
        (None, Some(server)) => Url::OnServer { server: server.url.clone(), database: database.name.clone() },
        (None, None) => return Err(Error::usage(format!("[[database]] {}: no url", database.name))),
    };
    let sections = std::iter::once(&database.section)
        .chain(server.map(|server| &server.section))
        .chain(std::iter::once(&file.defaults))
        .collect();
    let subject = Subject {
        name: &database.name,
        server: database.server.as_deref(),
        database: &database.name,
        url,
        server_url: server.map(|server| server.url.clone()),
        sections,
    };
    Plan::new(subject, keys)
}
