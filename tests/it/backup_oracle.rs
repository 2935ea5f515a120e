//! The awkward database against stock tools: what they restore from a run, and what they say of its archives and
//! files, is the same as of pg_dump's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use crate::support::pg::{self, Cluster};
use crate::support::program::{awkward, restore_as_told};
use crate::support::{judge, process};

/// What `pg_dumpall --roles-only` prints, comparable.
fn roles(cluster: &Cluster) -> String {
    judge::comparable(&process::succeed(cluster.command("pg_dumpall").args(["-r", "-d", &cluster.url("postgres")])))
}

#[test]
fn the_script_of_restore_md_makes_the_same_database_again() {
    for version in pg::versions() {
        let source = awkward(version);
        let target = Cluster::start(version);
        target.create_database("app");
        restore_as_told(&source.run, &target, "app");
        judge::assert_same(&judge::dump_text(&source.cluster, "app", &["-C"]), &judge::dump_text(&target, "app", &["-C"]));
        judge::assert_same(&roles(&source.cluster), &roles(&target));
        assert!(!std::path::Path::new("/tmp/pwned").exists());
    }
}
