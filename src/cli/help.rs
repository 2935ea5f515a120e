//! The end of each command's `--help`: examples, exit codes, and the page of the manual. The tests parse the examples.

use crate::cli::args::EXIT_CODES;

/// The help of a command that uses no store: without the options of all commands, which are about stores and logs.
pub(crate) const WITHOUT_STORE: &str = "{about-with-newline}\n{usage-heading} {usage}\n\nArguments:\n{positionals}\
    {after-help}\nOptions of all commands: pgstow --help";

/// The end of a command's help; of the program's own help for an empty name.
pub(crate) fn ending(command: &str) -> String {
    let (_, topic, examples) = ENDINGS.iter().find(|(name, ..)| *name == command).unwrap_or(&("", "", &[]));
    let mut text = String::from("Examples:\n");
    for example in *examples {
        text.push_str("  ");
        text.push_str(example);
        text.push('\n');
    }
    format!("{text}\n{EXIT_CODES}\n\nMore: pgstow manual {topic}").trim_end().to_owned()
}

/// The end of one command: its name, the page of the manual, and command lines.
type Ending = (&'static str, &'static str, &'static [&'static str]);

/// The endings; the program's own stands last.
const ENDINGS: &[Ending] = &[
    (
        "backup",
        "backup",
        &[
            "pgstow backup --database-url postgresql://user@host/app --store s3://bucket/app",
            "pgstow backup --encrypt age1... --max-object-size 50MB",
            "pgstow backup --max-block 60s --deadline 14m",
        ],
    ),
    (
        "run",
        "fleet",
        &["pgstow run", "pgstow run billing prod --at-once 4", "pgstow run --task auto --at-once 2 --per-server 3"],
    ),
    ("config", "fleet", &["pgstow config check", "pgstow config check --config /etc/pgstow.toml"]),
    (
        "copy",
        "copies",
        &[
            "pgstow copy --to s3://other-bucket/app --to-s3-endpoint https://s3.example.com",
            "pgstow copy 20261122T182104Z-3a5474 --to /mnt/backups/app",
        ],
    ),
    ("detect", "backup", &["pgstow detect", "pgstow detect --schemas"]),
    ("doctor", "doctor", &["pgstow doctor", "pgstow doctor --skip-database --store s3://bucket/app"]),
    ("list", "retention", &["pgstow list", "pgstow list --json"]),
    ("show", "retention", &["pgstow show", "pgstow show 20261122T182104Z-3a5474 --schema auth"]),
    ("diff", "retention", &["pgstow diff 20261121 latest"]),
    ("verify", "retention", &["pgstow verify", "pgstow verify 20261122T182104Z-3a5474 --identity key.txt"]),
    (
        "download",
        "retention",
        &[
            "pgstow download --to backups/latest",
            "pgstow download --table public.orders --table auth.users --to two-tables",
            "pgstow download --raw --to run",
        ],
    ),
    (
        "export",
        "export",
        &[
            "pgstow export --parquet ./parquet",
            "pgstow export 20261122 --schema sales --table public.users --parquet s3://my-lake/app",
            "pgstow export --parquet ./parquet --identity key.txt --json",
        ],
    ),
    (
        "peek",
        "rescue",
        &[
            "pgstow peek public.orders",
            "pgstow peek 20261122 public.orders --where-key id=4711",
            "pgstow peek public.orders --limit 0 --csv > orders.csv",
        ],
    ),
    (
        "rescue",
        "rescue",
        &[
            "pgstow rescue --table public.orders --to postgresql://owner@host/app",
            "pgstow rescue --table public.orders --where 'customer = 4711' --to postgresql://owner@host/app --apply missing",
            "pgstow rescue 20261122 --table public.orders --to postgresql://owner@host/app --apply both --with-referenced",
        ],
    ),
    (
        "restore",
        "restore",
        &[
            "pgstow restore --to postgresql://postgres@new-host/app --create --roles --role-passwords",
            "pgstow restore 20261122 --to postgresql://postgres@host/app --into-existing --table public.orders",
            "pgstow restore --profile supabase --roles --to postgresql://postgres.REF@host:5432/postgres",
        ],
    ),
    (
        "drill",
        "drill",
        &[
            "pgstow drill --on postgresql://postgres@test-host/postgres",
            "pgstow drill --on postgresql://postgres@test-host/postgres --tables 10%",
        ],
    ),
    ("status", "retention", &["pgstow status --max-age 26h || page-the-operator"]),
    ("report", "retention", &["pgstow report --out backups.html"]),
    (
        "prune",
        "retention",
        &["pgstow prune --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run", "pgstow prune --keep-last 10"],
    ),
    ("pin", "retention", &["pgstow pin 20261122T182104Z-3a5474 --reason 'before the billing migration'"]),
    ("unpin", "retention", &["pgstow unpin 20261122T182104Z-3a5474"]),
    ("promote", "retention", &["pgstow promote 20261121T030000Z-77b20e --backwards"]),
    (
        "manual",
        "",
        &[
            "pgstow manual restore",
            "pgstow manual settings | grep -A1 lock",
            "pgstow manual --man /usr/local/share/man/man1",
        ],
    ),
    ("schema", "format", &["pgstow schema > manifest.schema.json", "pgstow schema config > pgstow.schema.json"]),
    ("completions", "deploy", &["pgstow completions bash > /etc/bash_completion.d/pgstow"]),
    (
        "",
        "",
        &[
            "pgstow doctor                          check what could stop a backup",
            "pgstow backup                          save the database of DATABASE_URL",
            "pgstow restore --create --to URL       restore the latest run into a new database",
        ],
    ),
];
