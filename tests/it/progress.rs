//! The progress bar on a terminal of its own (`script`): it fits, it moves within a table, and it says how long it takes.

use std::process::Command;

use crate::support::pg;
use crate::support::process::output_with;
use crate::support::program::pgstow;

/// Frames of the bar, without the terminal's control sequences.
fn frames(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut plain = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c == '\u{1b}' {
            rest.find(char::is_ascii_alphabetic);
            plain.push('\n');
        } else {
            plain.push(if c == '\r' { '\n' } else { c });
        }
    }
    plain.lines().filter(|line| line.contains(" %  ")).map(|line| line.trim_end().to_owned()).collect()
}

#[test]
fn a_bar_fits_the_terminal_moves_within_a_table_and_says_what_is_left() {
    let cluster = pg::shared(pg::packaged());
    cluster.create_database("progress");
    cluster.psql(
        "progress",
        "CREATE TABLE one AS SELECT md5(i::text) || md5((-i)::text) || md5((i * 7)::text) t FROM generate_series(1, 30000) i",
    );
    let store = tempfile::tempdir().unwrap();
    let program = pgstow().get_program().to_str().unwrap().to_owned();
    let run = |columns: u32, words: &str| {
        let line = format!("stty cols {columns} rows 24; {program} {words} --store {}", store.path().display());
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).env("DATABASE_URL", cluster.url("progress")).env("TERM", "xterm");
        script.env_remove("PGSTOW_PROGRESS").env_remove("NO_COLOR").current_dir("/");
        let output = output_with(&mut script, b"");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        frames(&output.stdout)
    };
    let bin = cluster.bin_dir().display();
    for (columns, rate) in [(80, "600KiB"), (50, "1500KiB")] {
        let seen = run(columns, &format!("backup --rate-limit {rate} --pg-bin-dir {bin}"));
        assert!(seen.len() > 10, "{seen:?}");
        let longest = seen.iter().map(|frame| frame.chars().count()).max().unwrap();
        assert!(longest <= columns as usize, "{columns}: {seen:?}");
        let percent = |frame: &String| frame.split(" %  ").next()?.rsplit(' ').next()?.parse::<u32>().ok();
        let within = seen.iter().filter_map(percent).filter(|percent| (5..90).contains(percent)).count();
        assert!(within > 3, "the bar moves within the one table: {seen:?}");
        assert!(columns < 80 || seen.iter().any(|frame| frame.contains("/s  left ")), "{seen:?}");
    }
    let seen = run(80, "verify");
    assert!(seen.iter().all(|frame| frame.chars().count() <= 80), "{seen:?}");
    cluster.drop_database("progress");
}
